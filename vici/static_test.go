package vici

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"iked/internal/backend/fake"
	"iked/internal/engine"
	"iked/sad"
	"iked/vici/client"
	"iked/vici/wire"
)

type silent struct{}

func (silent) Send(_, _ netip.AddrPort, _ []byte, _ bool, _ uint8) error { return nil }
func (silent) Keepalive(_, _ netip.AddrPort) error                       { return nil }

// engineServer is a server of a real engine with a fake backend.
func engineServer(t *testing.T) (*fake.Backend, *client.Client) {
	t.Helper()
	back := fake.New()
	e, err := engine.New(engine.Options{Backend: back, Transport: silent{}, Shards: 1, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s := New(e, func(_ bool, format string, args ...any) { t.Logf(format, args...) })
	path := filepath.Join(t.TempDir(), "v")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := client.Dial(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
		l.Close()
		<-served
		e.Close(context.Background())
		back.Close()
	})
	return back, c
}

// describe prints an SA or a policy; keys print as nothing.
func describe(v any) string {
	encap := ""
	if sa, ok := v.(sad.SA); ok && sa.Encap != nil {
		encap, sa.Encap = fmt.Sprint(*sa.Encap), nil
		v = sa
	}
	return fmt.Sprintf("%+v %s\n", v, encap)
}

// request reads "key=value" words; keys are in hexadecimal digits.
func request(t *testing.T, words string) (m wire.Message) {
	t.Helper()
	for w := range strings.FieldsSeq(words) {
		k, v, _ := strings.Cut(w, "=")
		if strings.HasSuffix(k, "_key") {
			b, err := hex.DecodeString(v)
			if err != nil {
				t.Fatal(err)
			}
			m.SetBytes(k, b)
		} else {
			m.Set(k, v)
		}
	}
	return m
}

const gcmKey = " encr_key=000102030405060708090a0b0c0d0e0f10111213"

// Every kind of SA and policy that the words can express arrives in the backend as
// it was meant, and what is exported makes the same again.
func TestStaticRoundTrip(t *testing.T) {
	back, c := engineServer(t)
	k32 := strings.Repeat("ab", 32)
	sas := []string{
		"name=a dir=out proto=esp spi=0x1000 src=192.0.2.1 dst=192.0.2.2 mode=tunnel local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16,10.3.0.0/16[tcp/80] alg=aes128gcm16-esn hard_time=8h soft_bytes=1000 hard_packets=99 tfc_padding=512" + gcmKey,
		"dir=in spi=4097 src=192.0.2.2 dst=192.0.2.1 local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16 alg=aes256-sha256 replay_window=64 encap=4500:4500 reqid=0x40000123 encr_key=" + k32 + " integ_key=" + k32,
		"dir=out proto=ah spi=0x1002 src=2001:db8::1 dst=2001:db8::2 mode=transport alg=sha256 integ_key=" + k32,
		"dir=in spi=0x1003 src=192.0.2.2 dst=192.0.2.1 mode=beet local_ts=10.1.0.1 remote_ts=10.2.0.1 alg=chacha20poly1305 encr_key=" + k32 + "00000000",
		"dir=in spi=0x1004 src=192.0.2.2 dst=239.1.1.1 one_sender=yes mode=transport alg=aes128gcm16" + gcmKey,
	}
	policies := []string{
		"name=p1 action=protect local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16 reqid=0x40000000 mode=tunnel outer_local=192.0.2.1 outer_remote=192.0.2.2 priority=7",
		"name=p2 action=bypass dir=out local_ts=0.0.0.0/0 remote_ts=192.0.2.0/24",
		"name=p3 action=protect local_ts=10.1.0.1 remote_ts=10.2.0.1 reqid=0x40000001 mode=transport bundle=ah/transport/0x40000002,esp/tunnel/0x40000003/192.0.2.1/192.0.2.2",
	}
	fill := func(sas, policies []wire.Message) (string, string) {
		for i, m := range sas {
			if _, err := c.Call(t.Context(), "static-sa-add", m, nil); err != nil {
				t.Fatalf("SA %d: %v", i, err)
			}
		}
		for i, m := range policies {
			if _, err := c.Call(t.Context(), "static-policy-add", m, nil); err != nil {
				t.Fatalf("policy %d: %v", i, err)
			}
		}
		var a, b strings.Builder
		for _, sa := range back.SAs() {
			a.WriteString(hex.EncodeToString(sa.EncrKey.Reveal()) + hex.EncodeToString(sa.IntegKey.Reveal()))
			sa.Name = ""
			b.WriteString(describe(sa))
		}
		for _, p := range back.Policies() {
			p.ID = 0
			b.WriteString(describe(p))
		}
		return a.String(), b.String()
	}
	var in, inP []wire.Message
	for _, s := range sas {
		in = append(in, request(t, s))
	}
	for _, s := range policies {
		inP = append(inP, request(t, s))
	}
	keys, first := fill(in, inP)
	if len(back.SAs()) != len(sas) || len(back.Policies()) != len(policies) {
		t.Fatalf("%d SAs and %d policies arrived", len(back.SAs()), len(back.Policies()))
	}

	list := func(cmd, event string, req wire.Message) (out []wire.Message) {
		t.Helper()
		if err := c.Stream(t.Context(), cmd, event, req, func(m wire.Message) {
			var clean wire.Message
			for _, n := range m {
				if n.Name != "usage" {
					clean = append(clean, n)
				}
			}
			out = append(out, clean)
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, m := range list("static-sas", "static-sa", nil) {
		if m.Has("encr_key") || m.Has("integ_key") {
			t.Error("keys are listed unasked")
		}
		if b, err := m.Append(nil); err != nil || bytes.Contains(b, []byte{0xab, 0xab}) {
			t.Error("a key is in the list")
		}
	}
	outSA, outP := list("static-sas", "static-sa", request(t, "keys=yes")), list("static-policies", "static-policy", nil)
	for _, cmd := range []string{"static-sa-flush", "static-policy-flush"} {
		if _, err := c.Call(t.Context(), cmd, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(back.SAs())+len(back.Policies()) != 0 {
		t.Fatal("something is left after the flush")
	}
	keys2, second := fill(outSA, outP)
	if keys != keys2 || first != second {
		t.Errorf("an export makes something else:\n%s\n%s", first, second)
	}
}

// Faults are told with the key and what was expected; nothing is installed.
func TestStaticFaults(t *testing.T) {
	back, c := engineServer(t)
	const good = "dir=out spi=0x1000 src=192.0.2.1 dst=192.0.2.2 local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16 alg=aes128gcm16"
	for _, x := range []struct{ cmd, words, want string }{
		{"static-sa-add", strings.Replace(good, "dir=out", "", 1) + gcmKey, `dir: "", expected in or out`},
		{"static-sa-add", good + " colour=red" + gcmKey, "colour: unknown key"},
		{"static-sa-add", strings.Replace(good, "0x1000", "many", 1) + gcmKey, "spi:"},
		{"static-sa-add", strings.Replace(good, "192.0.2.1", "moon.example", 1) + gcmKey, "src:"},
		{"static-sa-add", strings.Replace(good, "10.1.0.0/16", "dynamic", 1) + gcmKey, "dynamic"},
		{"static-sa-add", strings.Replace(good, "alg=aes128gcm16", "", 1) + gcmKey, "alg: is missing"},
		{"static-sa-add", strings.Replace(good, "aes128gcm16", "aes128gcm16-aes256gcm16", 1) + gcmKey, "transforms"},
		{"static-sa-add", strings.Replace(good, "aes128gcm16", "aes128gcm16-x25519", 1) + gcmKey, "alg:"},
		{"static-sa-add", good, "encr_key has 0 octets"},
		{"static-sa-add", good + " encap=4500" + gcmKey, "encap:"},
		{"static-sa-add", good + " hard_time=soon" + gcmKey, "hard_time:"},
		{"static-sa-add", good + " replay_window=-1" + gcmKey, "replay_window:"},
		{"static-sa-add", strings.Replace(good, "local_ts=10.1.0.0/16", "", 1) + gcmKey, "local_ts and remote_ts"},
		{"static-sa-delete", "spi=0x9999", "no static SA"},
		{"static-sa-delete", "dir=in", "spi: is missing"},
		{"static-sa-update", "spi=0x9999 new_dst=192.0.2.9", "no static SA"},
		{"static-policy-add", "name=p local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16", "action:"},
		{"static-policy-add", "name=p action=bypass reqid=0x40000000 local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16", "action: bypass"},
		{"static-policy-add", "name=p action=protect dir=in reqid=0x40000000 local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16", "dir:"},
		{"static-policy-add", "name=p action=protect reqid=0x40000000 bundle=ah/tunnel/1 local_ts=10.1.0.0/16 remote_ts=10.2.0.0/16", "bundle:"},
		{"static-policy-delete", "name=p", "no static policy"},
	} {
		_, err := c.Call(t.Context(), x.cmd, request(t, x.words), nil)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s %s: %v, expected an error about %q", x.cmd, x.words, err, x.want)
		}
		if err != nil && strings.Contains(err.Error(), "0001020304") {
			t.Errorf("a key is in the error %v", err)
		}
	}
	if len(back.SAs())+len(back.Policies()) != 0 {
		t.Errorf("installed: %v %v", back.SAs(), back.Policies())
	}
}
