package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"iked/internal/testnet"
)

// Binaries are iked and ikectl as users run them.
type Binaries struct{ Iked, Ikectl string }

// Build builds them from the module's source into dir.
func Build(ctx context.Context, dir string) (Binaries, error) {
	b := Binaries{Iked: filepath.Join(dir, "iked"), Ikectl: filepath.Join(dir, "ikectl")}
	for pkg, out := range map[string]string{"iked/cmd/iked": b.Iked, "iked/cmd/ikectl": b.Ikectl} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("interop: build %s: %w\n%s", pkg, err, text)
		}
	}
	return b, nil
}

// Iked is a running iked with the userspace datapath.
type Iked struct {
	Control
	// Dir has iked.yaml and the folders certs, cacerts, private and state.
	Dir      string
	Process  *testnet.Process
	Binaries Binaries
}

// NewIked makes the folders of a daemon; Start starts it.
func NewIked(b Binaries, dir string) (*Iked, error) {
	d := &Iked{Dir: dir, Binaries: b, Control: Control{Socket: filepath.Join(dir, "iked.vici")}}
	for _, sub := range []string{"certs", "cacerts", "private", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Configure writes iked.yaml.
func (d *Iked) Configure(yaml string) error {
	return os.WriteFile(filepath.Join(d.Dir, "iked.yaml"), []byte(yaml), 0o600)
}

// readyWithin is how long a daemon may take to answer on a machine that does other
// work.
const readyWithin = 60 * time.Second

// Start starts the daemon in a namespace and waits until it answers.
func (d *Iked) Start(ctx context.Context, ns *testnet.Namespace, args ...string) error {
	var err error
	d.Process, err = ns.Start(testnet.Command{
		Name: "iked",
		Args: append([]string{
			d.Binaries.Iked, "--config", filepath.Join(d.Dir, "iked.yaml"), "--control", "unix://" + d.Socket,
			"--state", filepath.Join(d.Dir, "state"), "--backend", "userspace", "--log-level", "debug", "--log-format", "text",
		}, args...),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := d.WaitReady(ctx, d.Process.Alive); err != nil {
		// The log then says where it hangs.
		_ = d.Process.Signal(syscall.SIGQUIT)
		select {
		case <-d.Process.Done():
		case <-time.After(5 * time.Second):
		}
		return fmt.Errorf("%w\n%s", err, d.Process.Log())
	}
	return nil
}

// Ikectl runs the command line client against the daemon.
func (d *Iked) Ikectl(ctx context.Context, args ...string) (string, error) {
	return d.Process.NS.RunCommand(ctx, testnet.Command{Args: append([]string{d.Binaries.Ikectl, "--control", "unix://" + d.Socket}, args...)})
}

// AddIdentity stores a certificate with its key and chain where the daemon finds
// them.
func (d *Iked) AddIdentity(name string, id *Identity) error {
	errs := []error{id.WriteFiles(filepath.Join(d.Dir, "certs", name+".pem"), filepath.Join(d.Dir, "private", name+".pem"))}
	for i, ca := range id.Chain {
		errs = append(errs, os.WriteFile(filepath.Join(d.Dir, "certs", fmt.Sprintf("%s-%d.pem", name, i)), certPEM(ca), 0o644))
	}
	return errors.Join(errs...)
}

// AddCA stores a trusted authority.
func (d *Iked) AddCA(name string, ca *Identity) error {
	return ca.WriteFiles(filepath.Join(d.Dir, "cacerts", name+".pem"), "")
}

// Stop ends the daemon: it deletes its SAs first.
func (d *Iked) Stop() error { return d.Process.Stop(10 * time.Second) }
