package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// Two gateways without any connection, keyed by hand over ikectl: hosts behind them
// reach each other through ESP tunnels only, the SAs are shown apart, survive a
// reload, follow a mobility manager, and nothing passes in clear when they are gone. Keys are on no command
// line and in no output; a file with them belongs to its owner alone.
func TestManualKeys(t *testing.T) {
	t.Parallel()
	none := func(*testnet.Topology) string { return "log:\n  level: debug\n" }
	topo, a, b := twoIked(t, testnet.TopologyOptions{}, none, none)
	key := map[string]string{"a": strings.Repeat("a1", 20), "b": strings.Repeat("b2", 20)}
	ctx := within(t, 60*time.Second)
	run := func(s *site, args ...string) string {
		t.Helper()
		out, err := s.Ikectl(ctx, args...)
		if err != nil {
			t.Fatalf("ikectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	file := func(s *site, name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(s.Dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, x := range []struct {
		*site
		out, in       string
		own, peer     string
		local, remote string
		spiOut, spiIn string
	}{
		{a, "a", "b", topo.WanA4.String(), topo.WanB4.String(), topo.NetA4.String(), topo.NetB4.String(), "0x1001", "0x2002"},
		{b, "b", "a", topo.WanB4.String(), topo.WanA4.String(), topo.NetB4.String(), topo.NetA4.String(), "0x2002", "0x1001"},
	} {
		ts := []string{"local_ts=" + x.local, "remote_ts=" + x.remote, "alg=aes128gcm16-esn", "reqid=0x40000001"}
		outKey := file(x.site, "out.key", "# a comment\nencr_key="+key[x.out]+"\n", 0o600)
		inKey := file(x.site, "in.key", "encr_key="+key[x.in]+"\n", 0o600)
		if out := run(x.site, append([]string{"sa", "add", "dir=out", "spi=" + x.spiOut, "src=" + x.own, "dst=" + x.peer, "--key-file", outKey}, ts...)...); !strings.Contains(out, "reqid 0x40000001") {
			t.Errorf("sa add: %s", out)
		}
		run(x.site, append([]string{"sa", "add", "dir=in", "spi=" + x.spiIn, "src=" + x.peer, "dst=" + x.own, "--key-file", inKey}, ts...)...)
		run(x.site, "policy", "add", "name=site", "action=protect", "local_ts="+x.local, "remote_ts="+x.remote, "reqid=0x40000001", "outer_local="+x.own, "outer_remote="+x.peer)
	}
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	ping := func() error {
		_, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 15*time.Second)
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	run(a, "reload")
	if err := ping(); err != nil {
		t.Errorf("after a reload: %v", err)
	}
	for _, args := range [][]string{{"sas"}, {"sas", "-o", "json"}, {"sa", "export"}, {"policies"}} {
		out := run(a, args...)
		if !strings.Contains(out, "static") && args[0] != "sa" || !strings.Contains(out, "0x40000001") {
			t.Errorf("%v does not show what is static:\n%s", args, out)
		}
		for _, k := range key {
			if strings.Contains(out, k[:8]) {
				t.Errorf("%v shows a key", args)
			}
		}
	}
	if out, err := a.Ikectl(ctx, "sa", "add", "dir=out", "spi=0x3000", "encr_key=00"); err == nil || !strings.Contains(out+err.Error(), "--key-file") {
		t.Errorf("a key on the command line: %v %s", err, out)
	}
	open := file(a, "open.key", "encr_key="+key["a"]+"\n", 0o644)
	if out, err := a.Ikectl(ctx, "sa", "add", "dir=out", "spi=0x3000", "--key-file", open); err == nil || !strings.Contains(out+err.Error(), "chmod 600") {
		t.Errorf("a key file that others may read: %v %s", err, out)
	}

	// What was exported with keys, into a file of its owner alone, makes the same again.
	saved := filepath.Join(a.Dir, "saved")
	run(a, "sa", "export", "--with-keys", saved)
	if st, err := os.Stat(saved); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("exported file: %v, %v", st, err)
	}
	run(a, "sa", "flush")
	if res, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 2, Timeout: time.Second}); err == nil && res.Received > 0 {
		t.Error("a packet passed without an SA")
	}
	run(a, "sa", "add", "--file", saved)
	// The numbers begin anew, and the peer has seen them: it gets a new SA, too.
	run(b, "sa", "delete", "dir=in", "spi=0x1001")
	run(b, "sa", "add", "dir=in", "spi=0x1001", "src="+topo.WanA4.String(), "dst="+topo.WanB4.String(), "local_ts="+topo.NetB4.String(), "remote_ts="+topo.NetA4.String(),
		"alg=aes128gcm16-esn", "reqid=0x40000001", "--key-file", filepath.Join(b.Dir, "in.key"))
	if err := ping(); err != nil {
		t.Errorf("after an import: %v", err)
	}
	// A mobility manager moves them, both directions and the policy by one word.
	const second = "192.0.2.9"
	if err := topo.GwA.AddAddr("wan0", second+"/24"); err != nil {
		t.Fatal(err)
	}
	own, peer := topo.WanA4.String(), topo.WanB4.String()
	run(a, "migrate", "old_src="+own, "old_dst="+peer, "new_src="+second, "new_dst="+peer)
	run(b, "migrate", "dir=in", "old_src="+own, "old_dst="+peer, "new_src="+second, "new_dst="+peer)
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 5, Interval: 20 * time.Millisecond}); err != nil || r.Lost() > 0 {
		t.Errorf("after a move: %v, %v", r, err)
	}
	for _, s := range []*site{a, b} {
		if out := run(s, "sa", "export") + run(s, "policy", "list"); strings.Contains(out, own+"\n") || strings.Contains(out, own+" ") || strings.Count(out, second) != 3 {
			t.Errorf("%s, after a move:\n%s", s.ns.Name, out)
		}
	}
	for _, s := range []*site{a, b} {
		run(s, "policy", "delete", "name=site")
		run(s, "sa", "flush")
		if out := run(s, "sa", "export") + run(s, "policy", "list"); strings.TrimSpace(out) != "" {
			t.Errorf("left: %s", out)
		}
	}
	wire.Stop()
	if clear := wire.ClearText(); len(clear) > 0 || wire.Counts()[testnet.ESP] < 6 || wire.Counts()[testnet.IKE] > 0 {
		t.Errorf("on the wire: %v", wire)
	}
}
