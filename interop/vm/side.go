// Package vm holds the tests that need a kernel with all of IPsec, which they
// find in a user-mode-linux: both backends against each other, and iked with
// either of them against Debian's strongSwan with kernel-netlink.
package vm

import (
	"testing"

	"iked/datapath"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/trace"
	"iked/internal/transport"
	"iked/xfrm"
)

// logTo prints what a backend says in the log of a test.
func logTo(t testing.TB, ns *testnet.Namespace) func(trace.Record) {
	return func(r trace.Record) { t.Logf("%s: %s", ns.Name, r.Msg) }
}

// Userspace opens the userspace datapath, with the sockets of UDP encapsulation.
func Userspace() backendtest.Side {
	return backendtest.Side{Name: "userspace", Open: func(t testing.TB, ns *testnet.Namespace) backend.Backend {
		var d *datapath.Datapath
		var udp *transport.Transport
		err := ns.Do(func() (err error) {
			if udp, err = transport.New(transport.Options{Log: logTo(t, ns)}); err != nil {
				return err
			}
			udp.Start()
			d, err = datapath.New(datapath.Options{UDP: udp, Mark: transport.DefaultMark, Log: logTo(t, ns)})
			return err
		})
		if udp != nil {
			t.Cleanup(func() { udp.Close() })
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}}
}

// Kernel opens the kernel's IPsec stack.
func Kernel() backendtest.Side {
	return backendtest.Side{Name: "kernel", Open: func(t testing.TB, ns *testnet.Namespace) backend.Backend {
		var b backend.Backend
		err := ns.Do(func() (err error) {
			b, err = xfrm.New(xfrm.Options{Log: logTo(t, ns), State: t.TempDir()})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		return b
	}}
}
