package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"iked/conf"
	"iked/internal/trace"
	"iked/vici"
)

// ControlServer answers clients of the control protocol.
type ControlServer interface {
	// Serve accepts until the listener is closed.
	Serve(net.Listener) error
	// Close ends all clients after what waits for them was written.
	Close() error
}

// listen opens the control socket. A socket file that a dead daemon left is
// replaced; one that somebody answers on is not.
func listen(uri string, c conf.Control) (net.Listener, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("control socket %q: %w", uri, err)
	}
	switch u.Scheme {
	case "unix":
		l, err := listenUnix(u.Host+u.Path, c)
		if err != nil {
			return nil, fmt.Errorf("control socket %s: %w", uri, err)
		}
		return l, nil
	case "tcp":
		// The protocol has no authentication: nobody but this host may reach it.
		a, err := netip.ParseAddrPort(u.Host)
		if err != nil || !a.Addr().IsLoopback() {
			return nil, fmt.Errorf("control socket %s: expected a loopback address and a port, for the protocol has no authentication", uri)
		}
		return net.Listen("tcp", u.Host)
	}
	return nil, fmt.Errorf("control socket %q: expected unix:///path or tcp://127.0.0.1:port", uri)
}

func listenUnix(path string, c conf.Control) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is no absolute path", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is no socket", path)
		}
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			defer conn.Close()
			who := ""
			if p, ok := peer(conn); ok {
				who = " (" + processName(p.Pid) + ")"
			}
			return nil, fmt.Errorf("another daemon%s answers there; stop it, or use --control", who)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	old := syscall.Umask(0o177) // nobody gets in before the mode is set
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	if err := own(path, c); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// peer tells which process is at the other end of a local connection.
func peer(c net.Conn) (*unix.Ucred, bool) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, false
	}
	var cred *unix.Ucred
	var opterr error
	err = raw.Control(func(fd uintptr) { cred, opterr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, err == nil && opterr == nil
}

// processName is a process in words.
func processName(pid int32) string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if pid == 0 || err != nil {
		return "a process that is not visible from here"
	}
	return fmt.Sprintf("%s, process %d", strings.TrimSpace(string(comm)), pid)
}

func own(path string, c conf.Control) error {
	uid, gid := -1, -1
	if c.Owner != "" {
		n, err := lookUpID(c.Owner, func(s string) (string, error) {
			u, err := user.Lookup(s)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			return fmt.Errorf("owner: %w", err)
		}
		uid = n
	}
	if c.Group != "" {
		n, err := lookUpID(c.Group, func(s string) (string, error) {
			g, err := user.LookupGroup(s)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			return fmt.Errorf("group: %w", err)
		}
		gid = n
	}
	if uid >= 0 || gid >= 0 {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	mode := os.FileMode(c.Mode)
	if mode == 0 {
		mode = 0o600
	}
	return os.Chmod(path, mode)
}

func lookUpID(s string, name func(string) (string, error)) (int, error) {
	if n, err := strconv.Atoi(s); err == nil {
		return n, nil
	}
	id, err := name(s)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(id)
}

// openControl opens the socket and makes its server. That comes before the
// daemon reports ready: clients load their configuration right after.
func (d *process) openControl() error {
	uri := pick(d.opt.Control, d.cfg.Control.Socket, DefaultControl)
	l, err := listen(uri, d.cfg.Control)
	if err != nil {
		return err
	}
	d.lis = l
	if l.Addr().Network() == "tcp" {
		d.log.warn(trace.DMN, "control socket %s: every user and every program of this host can steer the daemon and load credentials through it; a unix socket has permissions", uri)
	}
	d.ctl = vici.New(d.engine, func(warn bool, format string, args ...any) {
		d.log.record(trace.Record{Level: trace.Control, Group: trace.CFG, Warn: warn, Msg: fmt.Sprintf(format, args...)})
	})
	return nil
}
