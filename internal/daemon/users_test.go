package daemon

import (
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/internal/engine"
	"iked/internal/secret"

	"github.com/sirupsen/logrus"
)

// radiusServer is a server that knows nobody by heart: decide gets User-Name and the
// octets of a request, and says the code and attributes of the answer; code 0: none.
func radiusServer(t *testing.T, key string, decide func(user string, request []byte) (code byte, attrs []byte)) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		in := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(in)
			if err != nil {
				return
			}
			b := in[:n]
			user := ""
			for at := 20; at+2 <= n; at += int(b[at+1]) {
				if b[at] == 1 {
					user = string(b[at+2 : at+int(b[at+1])])
				}
			}
			code, attrs := decide(user, b)
			if code == 0 {
				continue
			}
			out := append([]byte{code, b[1], 0, 0}, b[4:20]...)
			out = append(append(out, 80, 18), make([]byte, 16)...)
			out = append(out, attrs...)
			binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
			mac := hmac.New(md5.New, []byte(key))
			mac.Write(out)
			copy(out[22:], mac.Sum(nil))
			sum := md5.Sum(append(append([]byte(nil), out...), key...))
			copy(out[4:], sum[:])
			conn.WriteToUDPAddrPort(out, from)
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func quietUsers() *users {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return newUsers(&logger{l: l})
}

// Every key of a server acts: where it is, its secret, what it hears of us, and the
// patience with it.
func TestRadiusFollowsTheConfiguration(t *testing.T) {
	heard := make(chan string, 16)
	const key = "0123456789abcdef-secret"
	good := radiusServer(t, key, func(user string, b []byte) (byte, []byte) {
		heard <- string(b)
		switch user {
		case "bob":
			return 2, []byte{8, 6, 10, 9, 0, 7}
		case "otp":
			return 11, nil
		}
		return 3, append([]byte{18, 7}, "go\x1b[m"...)
	})
	silent := radiusServer(t, key, func(_ string, b []byte) (byte, []byte) { heard <- "silent"; return 0, nil })
	text := strings.NewReplacer("GOOD", good.Addr().String(), "PORT1", portOf(good), "SILENT", silent.Addr().String(), "PORT2", portOf(silent), "KEY", key).Replace(`
radius:
  - {name: first, address: SILENT, auth_port: PORT2, secret: KEY, retransmit_timeout: 20ms, retransmit_tries: 2, retransmit_base: 3}
  - {name: second, address: GOOD, auth_port: PORT1, secret: KEY, nas_identifier: gate-7}
`)
	cfg, faults := conf.Parse("/nowhere/iked.yaml", []byte(text), time.Now())
	if faults.Failed() {
		t.Fatal(faults.Err())
	}
	u := quietUsers()
	ask := func(user string) (engine.UserGrant, error) {
		return u.Radius(t.Context(), cfg.Radius, engine.UserQuery{User: user, Password: secret.New([]byte("sesame")), Conn: "road", Peer: netip.MustParseAddr("192.0.2.1")})
	}
	begin := time.Now()
	g, err := ask("bob")
	if err != nil || !g.OK || g.Address.String() != "10.9.0.7" {
		t.Fatalf("%+v, %v", g, err)
	}
	// 20, 60 and 180 ms.
	if took := time.Since(begin); took < 260*time.Millisecond {
		t.Errorf("the first server was given up after %v", took)
	}
	for range 3 {
		if h := <-heard; h != "silent" {
			t.Fatalf("heard %q, expected three requests to the first server", h)
		}
	}
	if h := <-heard; !strings.Contains(h, "gate-7") || !strings.Contains(h, "192.0.2.1") {
		t.Errorf("the request is %q", h)
	}
	for user, why := range map[string]string{"eve": `says "go\x1b[m"`, "otp": "one-time password"} {
		if g, err := ask(user); err != nil || g.OK || !strings.Contains(g.Why, why) {
			t.Errorf("%s: %+v, %v", user, g, err)
		}
	}
	cfg.Radius[1].Secret = secret.New([]byte("another secret, as long"))
	cfg.Radius = cfg.Radius[1:]
	cfg.Radius[0].RetransmitTimeout, cfg.Radius[0].RetransmitTries = 20*time.Millisecond, 0
	if g, err := ask("bob"); err == nil || g.OK {
		t.Errorf("with another secret: %+v, %v", g, err)
	}
}

func portOf(a netip.AddrPort) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

// Without a program there is nobody to ask, and one that is not safe to run is none.
func TestHookOfTheConfiguration(t *testing.T) {
	u := quietUsers()
	for _, path := range []string{"", "/nowhere/hook"} {
		if g, err := u.Hook(t.Context(), path, engine.UserQuery{User: "bob"}); err == nil || g.OK {
			t.Errorf("%q: %+v, %v", path, g, err)
		}
	}
	for path, want := range map[string]bool{"/bin/true": true, "/bin/false": false} {
		if g, err := u.Hook(t.Context(), path, engine.UserQuery{User: "bob"}); err != nil || g.OK != want {
			t.Errorf("%q: %+v, %v", path, g, err)
		}
	}
}

// A program that would not run is told when the configuration is read.
func TestHookIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	hook := filepath.Join(dir, "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "iked.yaml")
	for path, want := range map[string]string{"/bin/true": "", "/nowhere/hook": "no such file", hook: "can be written"} {
		if err := os.WriteFile(file, []byte("backend: userspace\nxauth_hook: "+path+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := Run(t.Context(), Options{Config: file, Check: true, Stderr: &out}); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		if got := out.String(); (want == "") != !strings.Contains(got, "xauth_hook") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, expected %q", path, got, want)
		}
	}
}
