package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"iked/conf"
	"iked/internal/trace"
)

// sink collects what is written to stderr.
type sink struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func quiet(trace.Record) {}

// --check prints every fault with file and line, and fails; a good file passes.
func TestCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "iked.yaml")
	bad := "connections:\n  - name: a\n    remote_adrs: [192.0.2.1]\n    dpd_delay: 5x\n"
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	var out sink
	err := Run(context.Background(), Options{Config: file, Check: true, Stderr: &out})
	if !errors.Is(err, ErrConfig) {
		t.Errorf("check of a faulty file: %v", err)
	}
	for _, want := range []string{"iked.yaml:3", "remote_adrs", "remote_addrs", "iked.yaml:4", "dpd_delay"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the faults do not tell %q:\n%s", want, out.String())
		}
	}
	if err := os.WriteFile(file, []byte("connections: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(context.Background(), Options{Config: file, Check: true, Stderr: &out}); err != nil {
		t.Errorf("check of a good file: %v", err)
	}
	if err := Run(context.Background(), Options{Config: file + "x", Check: true, Stderr: &out}); !errors.Is(err, ErrConfig) {
		t.Errorf("a file that was named and is not there: %v", err)
	}
}

// One daemon only works with a state directory; the second one is told which
// process has it. What is saved is there again, whole.
func TestStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, err := openState(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("state directory: %v, %v, expected mode 0700", st.Mode(), err)
	}
	if _, err := openState(dir, quiet); err == nil || !strings.Contains(err.Error(), "another iked") {
		t.Errorf("a second daemon: %v", err)
	}
	if err := s.Save("leases.json", []byte("[]")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "leases.json-1.tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.close()
	s, err = openState(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if b, err := s.Load("leases.json"); err != nil || string(b) != "[]" {
		t.Errorf("loaded %q, %v", b, err)
	}
	if b, err := s.Load("nothing"); b != nil || err != nil {
		t.Errorf("what was never saved: %q, %v", b, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) != 0 {
		t.Errorf("a half-written file of a crash is left: %v", left)
	}
}

// A state directory that cannot be made costs a warning, not the daemon.
func TestStateDegrades(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var warned []trace.Record
	s, err := openState(filepath.Join(file, "state"), func(r trace.Record) { warned = append(warned, r) })
	if err != nil {
		t.Fatal(err)
	}
	if len(warned) != 1 || !warned[0].Warn {
		t.Errorf("warnings: %v", warned)
	}
	if err := s.Save("x", []byte("y")); err != nil {
		t.Errorf("saving without a directory: %v", err)
	}
}

// The control socket has mode 0600 from the first moment, replaces what a dead
// daemon left, and refuses where somebody answers or where it is no socket.
func TestControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "iked.vici")
	l, err := listen("unix://"+path, conf.Control{})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v, expected mode 0600", st.Mode(), err)
	}
	if _, err := listen("unix://"+path, conf.Control{}); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a second daemon on the socket: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = listen("unix://"+path, conf.Control{})
	if err != nil {
		t.Fatalf("a socket that a dead daemon left: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen("unix://"+path, conf.Control{}); err == nil {
		t.Error("a file that is no socket was replaced")
	}
	for _, uri := range []string{"tcp://0.0.0.0:4502", "tcp://192.0.2.1:4502", "http://x", "unix://relative"} {
		if l, err := listen(uri, conf.Control{}); err == nil {
			l.Close()
			t.Errorf("%s was accepted", uri)
		}
	}
}

// A JSON log line has the fixed fields, and a record never waits for a reader.
func TestLogFields(t *testing.T) {
	var out sink
	g, err := newLogger(&out, "info", "json")
	if err != nil {
		t.Fatal(err)
	}
	g.record(trace.Record{Level: trace.Control, Group: trace.IKE, Conn: "office", Child: "net", Peer: "192.0.2.1:500",
		SPIi: 1, SPIr: 2, Exchange: "IKE_AUTH", MID: 1, UniqueID: 7, Msg: "hello"})
	g.record(trace.Record{Level: trace.Detail, Group: trace.IKE, Msg: "too much"})
	g.close()
	g.record(trace.Record{Msg: "after the end"})
	var m map[string]any
	if err := json.Unmarshal([]byte(out.String()), &m); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	for key, want := range map[string]any{"conn": "office", "child": "net", "peer": "192.0.2.1:500", "spi_i": "0000000000000001",
		"spi_r": "0000000000000002", "exchange": "IKE_AUTH", "mid": 1.0, "id": 7.0, "msg": "hello", "level": "info", "group": "IKE"} {
		if m[key] != want {
			t.Errorf("field %s is %v, expected %v", key, m[key], want)
		}
	}
	for _, bad := range [][2]string{{"loud", "text"}, {"info", "xml"}} {
		if _, err := newLogger(&out, bad[0], bad[1]); err == nil {
			t.Errorf("log level %s with format %s was accepted", bad[0], bad[1])
		}
	}
}

// Who holds a port is told by name and process.
func TestWhoHasThePort(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	if s := whoHas(port); !strings.Contains(s, "daemon.test") {
		t.Errorf("port %d: %s, expected this test", port, s)
	}
}

// The service manager gets its words as datagrams.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n := newNotifier()
	n.send("READY=1")
	n.reloading()
	for _, want := range []string{"READY=1", "RELOADING=1\nMONOTONIC_USEC="} {
		b := make([]byte, 256)
		k, err := l.Read(b)
		if err != nil || !strings.HasPrefix(string(b[:k]), want) {
			t.Errorf("got %q, %v, expected %q", b[:k], err, want)
		}
	}
}
