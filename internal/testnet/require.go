package testnet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// TB is the part of testing.TB that is used here.
type TB interface {
	Helper()
	Name() string
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(func())
	Logf(format string, args ...any)
	Failed() bool
}

// CI tells whether the environment says CI=true: then what a test needs is an
// obligation, and a test that cannot run fails.
func CI() bool { return os.Getenv("CI") == "true" }

// RequireRoot skips the test, loudly, when no network namespace can be made, and
// fails it under CI.
func RequireRoot(t TB) {
	t.Helper()
	if err := CanBuild(); err != nil {
		LeaveOut(t, err.Error())
	}
}

// RequireTUN does the same for /dev/net/tun.
func RequireTUN(t TB) {
	t.Helper()
	if err := CanTUN(); err != nil {
		LeaveOut(t, err.Error())
	}
}

// RequireCommand does the same for a program of a Debian package; an absolute path
// may be any file.
func RequireCommand(t TB, program, debianPackage string) {
	t.Helper()
	_, err := exec.LookPath(program)
	if filepath.IsAbs(program) {
		_, err = os.Stat(program)
	}
	if err != nil {
		LeaveOut(t, fmt.Sprintf("%s is missing: install the Debian package %s", program, debianPackage))
	}
}

// LeaveOut skips a test with the reason, on stderr too, and fails it under CI.
func LeaveOut(t TB, why string) {
	t.Helper()
	if CI() {
		t.Fatalf("cannot run, and under CI no test is left out: %s", why)
	}
	fmt.Fprintf(os.Stderr, "LEFT OUT %s: %s\n", t.Name(), why)
	t.Skipf("%s", why)
}

// ForTest builds a topology that ends with the test; it calls RequireRoot.
func ForTest(t TB, o TopologyOptions) *Topology {
	t.Helper()
	RequireRoot(t)
	if o.Between == NAT {
		RequireCommand(t, "nft", "nftables")
	}
	topo, err := NewTopology(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := topo.Close(); err != nil {
			t.Logf("clean up: %v", err)
		}
	})
	return topo
}
