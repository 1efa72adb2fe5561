package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iked/internal/testnet"
	"iked/interop/kdc"
	"iked/xfrm"
)

// binaries compiles what the demo starts.
func binaries(t *testing.T) (iked, ikectl string) {
	t.Helper()
	testnet.RequireRoot(t)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "iked/cmd/iked", "iked/cmd/ikectl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "iked"), filepath.Join(dir, "ikectl")
}

// Every mode comes up in userspace, loses no ping, shows the wire nothing but IKE
// and ESP, and takes everything down again: run fails otherwise.
func TestModesInUserspace(t *testing.T) {
	testnet.RequireTUN(t)
	iked, ikectl := binaries(t)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			d := demo{ctx: context.Background(), iked: iked, ikectl: ikectl, mode: m.name, backend: "userspace"}
			if err := d.run(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A gateway moves, and the ping goes on.
func TestMobileInUserspace(t *testing.T) {
	testnet.RequireTUN(t)
	iked, ikectl := binaries(t)
	d := demo{ctx: context.Background(), iked: iked, ikectl: ikectl, mode: "tunnel", backend: "userspace", mobile: true}
	if err := d.run(); err != nil {
		t.Error(err)
	}
}

// The same with keys of Kerberos, and a KDC of MIT's that is made for it.
func TestKINKInUserspace(t *testing.T) {
	testnet.RequireTUN(t)
	kdc.Require(t)
	iked, ikectl := binaries(t)
	for _, mode := range []string{"tunnel", "transport"} {
		d := demo{ctx: context.Background(), iked: iked, ikectl: ikectl, mode: mode, backend: "userspace", keys: "kink"}
		if err := d.run(); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// A kernel without ESP is no place for the kernel backend, and the demo says why
// before it starts anything.
func TestKernelIsRefusedInWords(t *testing.T) {
	iked, ikectl := binaries(t)
	r, err := xfrm.Probe()
	if err != nil || r.Unusable == "" {
		testnet.LeaveOut(t, "this kernel has ESP, or cannot be asked")
	}
	d := demo{ctx: context.Background(), iked: iked, ikectl: ikectl, mode: "tunnel", backend: "kernel"}
	if err := d.run(); err == nil || !strings.Contains(err.Error(), r.Unusable) {
		t.Errorf("%v, expected the reason %q", err, r.Unusable)
	}
	d.mode = "magic"
	if err := d.run(); err == nil || !strings.Contains(err.Error(), "choose one of") || errors.Is(err, context.Canceled) {
		t.Errorf("mode magic: %v", err)
	}
}
