package conf

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// layFile puts files into a folder.
func layFile(t *testing.T, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

const oneTunnel = `
connections:
  - name: office
    remote_addrs: [192.0.2.2]
    children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16]}]
secrets:
  - {psk: "file:office.psk"}
`

// CVE-2025-9615 class: a secret that every user may read or write is refused,
// through a symbolic link as well, and the mode that counts is that of the file
// that was read.
func TestCVE_2025_9615_SecretsOfOthers(t *testing.T) {
	for mode, good := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o644: false, 0o602: false} {
		for _, link := range []bool{false, true} {
			dir := t.TempDir()
			file := layFile(t, dir, "iked.yaml", oneTunnel, 0o600)
			name := "office.psk"
			if link {
				name = "elsewhere.psk"
				if err := os.Symlink(name, filepath.Join(dir, "office.psk")); err != nil {
					t.Fatal(err)
				}
			}
			layFile(t, dir, name, "correct horse battery staple\n", mode)
			_, faults := Load(file, time.Now())
			if faults.Failed() == good {
				t.Errorf("mode %04o, link %t: %v", mode, link, faults)
			}
			for _, f := range faults {
				if strings.Contains(f.Error(), "horse") {
					t.Errorf("the fault shows the secret: %v", f)
				}
			}
		}
	}
}

// A FIFO or a device among the credentials is a fault; it does not hold up the
// reading for ever.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	file := layFile(t, dir, "iked.yaml", oneTunnel, 0o600)
	layFile(t, dir, "office.psk", "secret", 0o600)
	layFile(t, dir, "certs/README", "", 0o600)
	if err := syscall.Mkfifo(filepath.Join(dir, "certs", "pipe.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "certs", "zero.pem")); err != nil {
		t.Fatal(err)
	}
	_, faults := Load(file, time.Now())
	n := 0
	for _, f := range faults {
		if strings.Contains(f.Error(), "no regular file") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d of 2 special files were refused: %v", n, faults)
	}
}

// Secrets never print, whatever verb shows the configuration around them, and
// not in the faults of a file that holds them.
func TestSecretsInFaults(t *testing.T) {
	text := "connections: [{name: a, remote_addrs: [192.0.2.1], bad_key: 1, children: []}]\nsecrets:\n  - {psk: \"hunter2hunter2\", id: [\"@#zz\"], nonsense: 1}\n  - {psk: 0xhunter2}\n"
	_, faults := Parse("/nowhere/iked.yaml", []byte(text), time.Now())
	if !faults.Failed() {
		t.Fatal("no fault")
	}
	for _, f := range faults {
		if strings.Contains(f.Error(), "hunter2") {
			t.Errorf("%v", f)
		}
	}
}

// Peers that get an address of a pool must not be able to claim another's: a
// selector that lets them is pointed out.
func TestPoolAndWideSelector(t *testing.T) {
	text := func(ts string) string {
		return "connections: [{name: a, pools: [p], local: {auth: psk}, remote: {auth: psk}, children: [{name: c, local_ts: [10.1.0.0/16]" + ts + "}]}]\n" +
			"pools: [{name: p, addrs: 10.9.0.0/24}]\nsecrets: [{psk: \"hunter2hunter2\"}]\n"
	}
	for ts, want := range map[string]bool{"": false, ", remote_ts: [dynamic]": false, ", remote_ts: [0.0.0.0/0]": true, ", remote_ts: [10.9.0.0/24]": true} {
		_, faults := Parse("/nowhere/iked.yaml", []byte(text(ts)), time.Now())
		if faults.Failed() {
			t.Fatal(faults)
		}
		got := false
		for _, f := range faults {
			got = got || strings.Contains(f.Message, "those of others too")
		}
		if got != want {
			t.Errorf("%q: warned %t, expected %t: %v", ts, got, want, faults)
		}
	}
}
