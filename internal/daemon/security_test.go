package daemon

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/conf"
	"iked/internal/trace"
)

// CVE-2025-9615 class: state that another user could have put there is not read:
// a symbolic link, a FIFO, a file of somebody else's.
func TestCVE_2025_9615_ForeignState(t *testing.T) {
	dir := t.TempDir()
	s, err := openState(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.Save("leases.json", []byte("[]")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Load("leases.json"); err != nil || string(b) != "[]" {
		t.Fatalf("%q, %v", b, err)
	}
	st, err := os.Stat(filepath.Join(dir, "leases.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link.json", "pipe.json"} {
		done := make(chan error, 1)
		go func() {
			_, err := s.Load(name)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s was read", name)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s holds up the daemon", name)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(dir, "leases.json"), 12345, 12345); err == nil {
			if _, err := s.Load("leases.json"); err == nil {
				t.Error("a file of another user was read")
			}
		}
	}
}

// A directory that others use, too, keeps its files: only what the daemon itself
// left half written is removed.
func TestSweepIsNarrow(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"other.tmp", "leases.json-1.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openState(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := os.Stat(filepath.Join(dir, "other.tmp")); err != nil {
		t.Error("a file of another program was removed")
	}
	if _, err := os.Stat(filepath.Join(dir, "leases.json-1.tmp")); err == nil {
		t.Error("a half-written file is left")
	}
}

// With the control socket in /etc, the file of assigned name servers would be the
// system's own: it is neither removed nor written, whatever peers assign.
func TestResolvFileOfTheSystem(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	const own = "nameserver 192.0.2.53\n"
	check := func(when string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != own {
			t.Errorf("%s: %q, %v", when, b, err)
		}
	}
	if err := os.WriteFile(path, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newResolvFile("unix://"+dir+"/iked.vici", "/nowhere")
	check("at the start")
	if err := r.Use("evil-1", []netip.Addr{netip.MustParseAddr("203.0.113.66")}, ""); err == nil {
		t.Error("no error")
	}
	check("after a peer assigned a server")
	_ = r.Drop("evil-1")
	check("at the end")
}

// CVE-2018-5388 class: the control socket is its owner's from the first moment;
// one over TCP is refused but for the loopback.
func TestCVE_2018_5388_ControlSocketIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen("unix://"+path, conf.Control{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, uri := range []string{"tcp://0.0.0.0:4502", "tcp://[::]:4502", "tcp://192.0.2.1:4502", "tcp://localhost:4502", "udp://127.0.0.1:1"} {
		if l, err := listen(uri, conf.Control{}); err == nil {
			l.Close()
			t.Errorf("%s is served", uri)
		}
	}
}

// A log line is one line, and JSON stays JSON, whatever a peer's name holds.
func TestLogInjection(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out sink
		g, err := newLogger(&out, "info", format)
		if err != nil {
			t.Fatal(err)
		}
		g.record(trace.Record{Group: trace.IKE, Level: trace.Control, Conn: "a\nb", Peer: "x\r\ny", Msg: "peer \"\nlevel=error msg=\"root\x1b[2J\u2028\x00 {\"a\":1}"})
		g.close()
		s := out.String()
		if strings.Count(s, "\n") != 1 || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 && r != '\n' }) {
			t.Errorf("%s: %q", format, s)
		}
	}
}

// privilegesChild tells this program to drop its privileges and report.
const privilegesChild = "IKED_TEST_PRIVILEGES"

// What is kept: at most the capabilities to administer the network, open raw
// sockets and bind low ports; no program that is run can gain more; no core dump.
func TestPrivileges(t *testing.T) {
	if os.Getenv(privilegesChild) != "" {
		if err := dropPrivileges(); err != nil {
			os.Stdout.WriteString("error: " + err.Error() + "\n")
		}
		b, _ := os.ReadFile("/proc/thread-self/status")
		l, _ := os.ReadFile("/proc/self/limits")
		os.Stdout.Write(append(b, l...))
		os.Exit(0)
	}
	exe := filepath.Join(t.TempDir(), "test")
	build := exec.CommandContext(context.Background(), "go", "test", "-c", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(exe, "-test.run", "^TestPrivileges$")
	cmd.Env = append(os.Environ(), privilegesChild+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "error:") {
		t.Fatalf("%v\n%s", err, out)
	}
	fields := map[string]string{}
	for _, line := range strings.Split(string(out), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok {
			fields[k] = strings.TrimSpace(v)
		}
		if strings.HasPrefix(line, "Max core file size") && !strings.Contains(line, " 0 ") {
			t.Errorf("core dumps: %s", line)
		}
	}
	if fields["NoNewPrivs"] != "1" {
		t.Errorf("NoNewPrivs %q", fields["NoNewPrivs"])
	}
	for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
		var have uint64
		for _, c := range fields[set] {
			have = have<<4 | uint64(strings.IndexRune("0123456789abcdef", c))
		}
		if fields[set] == "" || have&^uint64(needed) != 0 {
			t.Errorf("%s is %q, at most %x is needed", set, fields[set], uint64(needed))
		}
	}
}
