package uml_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"iked/internal/uml"
)

func TestMain(m *testing.M) {
	uml.Main(m, uml.Options{Prepare: func(dir string) error { return os.WriteFile(dir+"/made-on-host", []byte("fast"), 0o600) }})
}

// The guest has another kernel than the machine, and it has ESP, AH and BEET.
func TestGuestHasIPsec(t *testing.T) {
	uml.Require(t)
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !strings.Contains(string(cpu), "User Mode Linux") {
		t.Errorf("this is not a user-mode-linux: %v %s", err, cpu)
	}
	const key = "0x0102030405060708090a0b0c0d0e0f10"
	for _, rest := range [][]string{
		{"proto", "esp", "spi", "0x1000", "mode", "beet", "enc", "cbc(aes)", key, "auth-trunc", "hmac(sha256)", key, "128", "sel", "src", "10.0.0.1/32", "dst", "10.0.0.2/32"},
		{"proto", "esp", "spi", "0x1001", "mode", "tunnel", "flag", "esn", "replay-window", "128", "aead", "rfc4106(gcm(aes))", key + "11121314", "128"},
		{"proto", "ah", "spi", "0x1002", "mode", "transport", "auth-trunc", "hmac(sha256)", key, "128"},
	} {
		args := append([]string{"xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2"}, rest...)
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Errorf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := exec.Command("ip", "xfrm", "state", "flush").CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

// TestOnDemand fails as the environment asks: package umltest looks at what comes out
// of the guest.
func TestOnDemand(t *testing.T) {
	uml.Require(t)
	switch os.Getenv("UML_TEST") {
	case "":
	case "fail":
		t.Error("this is the failure")
	case "panic":
		panic("this is the panic")
	case "hang":
		fmt.Println("hanging")
		select {}
	case "halt":
		if out, err := exec.Command("busybox", "poweroff", "-f").CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		select {}
	}
}

// Temporary files stay in the guest, and what Prepare made on the machine is there.
func TestFilesOfTheGuest(t *testing.T) {
	uml.Require(t)
	if d := t.TempDir(); !strings.HasPrefix(d, "/dev/shm/") {
		t.Errorf("temporary folder %s is on the machine's disk", d)
	}
	if b, err := os.ReadFile(uml.Dir() + "/made-on-host"); err != nil || string(b) != "fast" {
		t.Errorf("file of Prepare: %q, %v", b, err)
	}
	if _, err := os.Stat("uml_test.go"); err != nil {
		t.Errorf("the tests run in their package's folder: %v", err)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Error(err)
	}
	if n := runtime.NumCPU(); n != 1 {
		t.Errorf("%d processors, want 1", n)
	}
}

// What a test prints arrives octet by octet: markers of test2json are control
// characters, which a terminal would eat.
func TestOutputIsBinary(t *testing.T) {
	uml.Require(t)
	t.Logf("a tab\tand a line of %s", strings.Repeat("x", 10000))
}
