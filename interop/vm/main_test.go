package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"iked/internal/backend/backendtest"
	"iked/internal/uml"
	"iked/interop"
)

func TestMain(m *testing.M) {
	uml.Main(writer{m}, uml.Options{Modules: []string{"mip6"}, Prepare: func(dir string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		_, err := interop.Build(ctx, dir)
		return err
	}})
}

// writer writes the tables after the tests.
type writer struct{ m *testing.M }

func (w writer) Run() int {
	code := w.m.Run()
	if err := writeTables(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// binaries are iked and ikectl, built on the machine.
func binaries() interop.Binaries {
	return interop.Binaries{Iked: filepath.Join(uml.Dir(), "iked"), Ikectl: filepath.Join(uml.Dir(), "ikectl")}
}

// The kernel carries every kind of SA, with its own kind and with the userspace
// datapath.
func TestPairs(t *testing.T) {
	uml.Require(t)
	for _, p := range [][2]backendtest.Side{{Kernel(), Kernel()}, {Userspace(), Kernel()}} {
		name := p[0].Name + " with " + p[1].Name
		t.Run(name, func(t *testing.T) { backendtest.RunPair(t, p[0], p[1], pairTables[name].Add) })
	}
}
