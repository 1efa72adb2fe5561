package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a program to start in a namespace.
type Command struct {
	// Name labels the log file; empty: the base name of Args[0].
	Name string
	Args []string
	// Env is added to the environment of this process.
	Env   []string
	Dir   string
	Stdin io.Reader
	// PrivateRun gives the program a mount namespace with an empty tmpfs on /run
	// (and so on /var/run), for daemons with fixed paths there.
	PrivateRun bool
	// Output takes stdout and stderr; nil: a log file below Net.Dir.
	Output *os.File
}

// Process is a started Command. It is killed when this process dies, however.
type Process struct {
	Name string
	NS   *Namespace

	log  string
	pid  int
	done chan struct{}

	mu    sync.Mutex
	state *os.ProcessState
	err   error
}

// Start starts a program in the namespace and returns at once.
func (ns *Namespace) Start(c Command) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, fmt.Errorf("testnet: %s: a command without a program", ns.Name)
	}
	if c.Name == "" {
		c.Name = filepath.Base(c.Args[0])
	}
	p := &Process{Name: c.Name, NS: ns, done: make(chan struct{})}
	out := c.Output
	if out == nil {
		f, err := os.CreateTemp(ns.net.dir, ns.Name+"-"+c.Name+"-*.log")
		if err != nil {
			return nil, fmt.Errorf("testnet: log of %s: %w", c.Name, err)
		}
		defer f.Close()
		out, p.log = f, f.Name()
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Dir, c.Stdin, out, out
	// A group of its own: Ctrl-C at the terminal is for this process, which stops its
	// children in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}

	// The child inherits the namespaces of the thread that starts it, and
	// Pdeathsig fires when that thread ends: so it stays until the child is gone.
	started := make(chan error, 1)
	go lockedThread(func() {
		err := ns.enter()
		if err == nil && c.PrivateRun {
			err = privateRun()
		}
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		err = cmd.Wait()
		p.mu.Lock()
		p.state, p.err = cmd.ProcessState, err
		p.mu.Unlock()
		close(p.done)
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("testnet: %s: start %s: %w", ns.Name, strings.Join(c.Args, " "), err)
	}
	ns.net.mu.Lock()
	ns.net.processes = append(ns.net.processes, p)
	ns.net.mu.Unlock()
	return p, nil
}

// privateRun moves the calling thread to a mount namespace with its own /run.
func privateRun() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare(CLONE_NEWNS): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	return nil
}

// Run runs a program in the namespace to its end and returns what it printed.
func (ns *Namespace) Run(ctx context.Context, args ...string) (string, error) {
	return ns.RunCommand(ctx, Command{Args: args})
}

// RunCommand is Run with the options of Command; Output is ignored. When ctx
// ends first, the program is killed.
func (ns *Namespace) RunCommand(ctx context.Context, c Command) (string, error) {
	c.Output = nil
	p, err := ns.Start(c)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Signal(syscall.SIGKILL)
		<-p.done
	}
	out := p.Log()
	os.Remove(p.log)
	if err := p.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out, fmt.Errorf("testnet: %s: %s: %w\n%s", ns.Name, strings.Join(c.Args, " "), err, strings.TrimSpace(out))
	}
	return out, nil
}

// PID is the process ID as this process sees it.
func (p *Process) PID() int { return p.pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Alive tells whether the program still runs.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits for the end and returns nil for exit status 0.
func (p *Process) Wait() error {
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends a signal; a program that has ended is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return nil
	}
	if err := unix.Kill(p.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("testnet: signal %v to %s (%d): %w", sig, p.Name, p.pid, err)
	}
	return nil
}

// Stop asks the program to end with SIGTERM, and kills it after grace; that it
// had to be killed is an error. A program that has ended is left alone.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return fmt.Errorf("testnet: %s in %s did not end within %v after SIGTERM", p.Name, p.NS.Name, grace)
}

// Log is what the program has printed so far, stdout and stderr together; empty
// when Command.Output was given.
func (p *Process) Log() string {
	if p.log == "" {
		return ""
	}
	b, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(b)
}

// CPU is the processor time, user and system, that the program has used.
func (p *Process) CPU() (time.Duration, error) {
	if !p.Alive() {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.state.UserTime() + p.state.SystemTime(), nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0, fmt.Errorf("testnet: processor time of %s: %w", p.Name, err)
	}
	// The second field is the program's name in parentheses and may hold blanks.
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("testnet: /proc/%d/stat has %d fields after the name, want 13 or more", p.pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		v, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("testnet: /proc/%d/stat: %w", p.pid, err)
		}
		ticks += v
	}
	const userHZ = 100 // fixed in the Linux user interface
	return time.Duration(ticks) * time.Second / userHZ, nil
}
