package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/internal/backend/fake"
)

// manyConnections is a configuration of n connections with a child each.
func manyConnections(n int, note string) string {
	var b strings.Builder
	b.WriteString("connections:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: c%d\n    local: {id: moon, auth: psk}\n    remote: {id: sun%d, auth: psk}\n    remote_addrs: [10.200.%d.%d]\n"+
			"    children: [{name: net, remote_ts: [10.%d.%d.0/24]%s}]\n", i, i, i>>8, i&255, 100+i>>8, i&255, note)
	}
	b.WriteString("secrets: [{psk: \"a secret for everybody here\"}]\n")
	return b.String()
}

func parseMany(tb testing.TB, text string) *conf.Config {
	cfg, faults := conf.Parse("/nowhere/iked.yaml", []byte(text), time.Now())
	if err := faults.Err(); err != nil {
		tb.Fatal(err)
	}
	return cfg
}

const many = 5000

func loadedEngine(tb testing.TB, cfg *conf.Config) *Engine {
	e, err := New(Options{Backend: fake.New(), Transport: wire{}, Shards: 2, Workers: 1})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { e.Close(context.Background()) })
	if _, err := e.Apply(context.Background(), cfg); err != nil {
		tb.Fatal(err)
	}
	return e
}

// Reading 5,000 connections from a file.
func BenchmarkParse5000(b *testing.B) {
	text := manyConnections(many, "")
	for b.Loop() {
		parseMany(b, text)
	}
}

// Loading 5,000 connections into an empty engine.
func BenchmarkApply5000(b *testing.B) {
	cfg := parseMany(b, manyConnections(many, ""))
	for b.Loop() {
		loadedEngine(b, cfg)
	}
}

// A reload of 5,000 connections: none differs, one differs, all differ.
func BenchmarkReload5000(b *testing.B) {
	text := manyConnections(many, "")
	for name, other := range map[string]string{
		"none": text, "one": strings.Replace(text, "10.100.7.0/24", "10.99.7.0/24", 1), "all": manyConnections(many, ", inactivity: 1h"),
	} {
		b.Run(name, func(b *testing.B) {
			cfgs := [2]*conf.Config{parseMany(b, text), parseMany(b, other)}
			e := loadedEngine(b, cfgs[0])
			i := 0
			for b.Loop() {
				i++
				if _, err := e.Apply(context.Background(), cfgs[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Loading and unloading one connection over the control protocol beside 5,000.
func BenchmarkLoadConnBeside5000(b *testing.B) {
	e := loadedEngine(b, parseMany(b, manyConnections(many, "")))
	c := parseMany(b, strings.Replace(manyConnections(1, ""), "c0", "one", 1)).Connections[0]
	for b.Loop() {
		if err := e.LoadConn(context.Background(), c); err != nil {
			b.Fatal(err)
		}
		if err := e.UnloadConn(context.Background(), c.Name); err != nil {
			b.Fatal(err)
		}
	}
}
