package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"iked/internal/trace"
)

// lockTable makes sure that one iked only works with a routing table: a second
// would take the routes and rules of the first for leftovers, and what the first
// protects would leave in clear when the second ends. Tables belong to a network
// namespace, and so do abstract sockets, which end with their process. The lock is
// held until it is closed.
func lockTable(table int, warn func(format string, args ...any)) (net.Listener, error) {
	name := fmt.Sprintf("@iked-table-%d", table)
	l, err := net.Listen("unix", name)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		warn("routing table %d cannot be locked against a second iked: %v", table, err)
		return nil, nil
	}
	// Any user may take a name. Only another daemon with rights like ours counts.
	if c, err := net.DialTimeout("unix", name, time.Second); err == nil {
		defer c.Close()
		if p, ok := peer(c); ok && (p.Uid == 0 || int(p.Uid) == os.Geteuid()) {
			return nil, fmt.Errorf("routing table %d is used by another iked (%s); stop it, or give this one its own "+
				"device, table, rule_priority and mark (section datapath)", table, processName(p.Pid))
		}
	}
	warn("routing table %d cannot be locked against a second iked: a user's program has the abstract socket %s", table, name)
	return nil, nil
}

// admit closes at once whoever connects to the lock to see who has it; the kernel
// tells them.
func admit(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

func (d *process) lockTable() error {
	l, err := lockTable(d.cfg.Datapath.Table, func(format string, args ...any) { d.log.warn(trace.DMN, format, args...) })
	if l != nil {
		d.table = l
		go admit(l)
	}
	return err
}
