package vm

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
)

// Guest is what the tests of this folder run in: a kernel with Mobile IPv6, and iked
// and ikectl as they are built on the machine.
var Guest = uml.Options{Modules: []string{"mip6"}, Prepare: func(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	_, err := interop.Build(ctx, dir)
	return err
}}

// StartIked runs iked with a backend, with its files in a network.
func StartIked(t testing.TB, net interface{ Path(...string) string }, ns *testnet.Namespace, yaml, backend string) *interop.Iked {
	t.Helper()
	d, err := interop.NewIked(Binaries(), net.Path(ns.Name))
	if err == nil {
		err = d.Configure(yaml)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err == nil {
		err = d.Start(ctx, ns, "--backend", backend)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of iked in %s:\n%s", ns.Name, d.Process.Log())
		}
	})
	return d
}

// KernelList is what `ip xfrm` lists of states or policies, each on one line.
func KernelList(t testing.TB, ns *testnet.Namespace, what string) []string {
	t.Helper()
	out, err := ns.Run(t.Context(), "ip", "xfrm", what)
	if err != nil {
		t.Fatal(err, out)
	}
	var list []string
	for _, e := range strings.Split("\n"+out, "\nsrc ")[1:] {
		list = append(list, "src "+strings.Join(strings.Fields(e), " "))
	}
	return list
}

// System is what a daemon may put into the kernel.
func System(t testing.TB, ns *testnet.Namespace) string {
	t.Helper()
	var b strings.Builder
	for _, cmd := range []string{"ip xfrm state", "ip xfrm policy", "ip -4 rule", "ip -6 rule"} {
		out, err := ns.Run(t.Context(), strings.Fields(cmd)...)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s:\n%s", cmd, out)
	}
	links, err := ns.Links()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "links: %v\n", links)
	return b.String()
}

// Installed counts the CHILD_SAs that are.
func Installed(list []interop.IKESA) (n int) {
	for i := range list {
		for _, c := range list[i].Children {
			if c.State == "INSTALLED" {
				n++
			}
		}
	}
	return n
}

// Binaries are iked and ikectl, built on the machine.
func Binaries() interop.Binaries {
	return interop.Binaries{Iked: filepath.Join(uml.Dir(), "iked"), Ikectl: filepath.Join(uml.Dir(), "ikectl")}
}
