// Package vm tests the kernel backend on a kernel that has ESP and AH.
package vm

import (
	"fmt"
	"os"
	"testing"

	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/trace"
	"iked/internal/uml"
	"iked/xfrm"
)

func TestMain(m *testing.M) {
	if os.Getenv(leaveEnv) != "" {
		if err := leaveBehind(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	uml.Main(m, uml.Options{Modules: []string{"dummy"}})
}

// namespace is a fresh one.
func namespace(t *testing.T) *testnet.Namespace {
	t.Helper()
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	ns, err := n.Namespace("xfrm")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func open(t *testing.T, ns *testnet.Namespace, o xfrm.Options) *xfrm.Backend {
	t.Helper()
	if o.Log == nil {
		o.Log = func(r trace.Record) { t.Log(r.Msg) }
	}
	var b *xfrm.Backend
	if err := ns.Do(func() (err error) { b, err = xfrm.New(o); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// The kernel keeps the contract of backends.
func TestContract(t *testing.T) {
	uml.Require(t)
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		return open(t, namespace(t), xfrm.Options{State: t.TempDir()})
	})
}
