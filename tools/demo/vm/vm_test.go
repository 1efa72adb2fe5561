// Package vm shows the demonstration on a kernel that carries ESP.
package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/uml"
)

func TestMain(m *testing.M) { uml.Main(m, uml.Options{Prepare: build}) }

// build compiles what the tests start, on the machine, where it is fast.
func build(dir string) error {
	cmd := exec.Command("go", "build", "-o", dir, "iked/cmd/iked", "iked/cmd/ikectl", "iked/tools/demo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return err
}

// Every mode comes up with either backend, loses no ping, shows the wire nothing but
// IKE and ESP, and leaves nothing behind: the demonstration fails otherwise.
func TestDemoWithEitherBackend(t *testing.T) {
	uml.Require(t)
	for _, backend := range []string{"kernel", "userspace"} {
		for _, mode := range []string{"tunnel", "inter-family", "transport", "beet"} {
			t.Run(backend+" "+mode, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				bin := func(name string) string { return filepath.Join(uml.Dir(), name) }
				out, err := exec.CommandContext(ctx, bin("demo"), "-iked", bin("iked"), "-ikectl", bin("ikectl"), "-mode", mode, "-backend", backend).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				for _, want := range []string{"backend: " + backend + ", as configured", "Anything else: 0 packets."} {
					if !strings.Contains(string(out), want) {
						t.Errorf("the output has no %q:\n%s", want, out)
					}
				}
				if left, err := exec.CommandContext(ctx, "ip", "xfrm", "state").CombinedOutput(); err != nil || len(left) > 0 {
					t.Errorf("SAs are left: %v %s", err, left)
				}
			})
		}
	}
}
