package vm

import (
	"fmt"
	"os"
	"testing"

	"iked/internal/backend/backendtest"
	"iked/internal/uml"
)

func TestMain(m *testing.M) {
	uml.Main(writer{m}, Guest)
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

// The kernel carries every kind of SA, with its own kind and with the userspace
// datapath.
func TestPairs(t *testing.T) {
	uml.Require(t)
	for _, p := range [][2]backendtest.Side{{Kernel(), Kernel()}, {Userspace(), Kernel()}} {
		name := p[0].Name + " with " + p[1].Name
		t.Run(name, func(t *testing.T) { backendtest.RunPair(t, p[0], p[1], pairTables[name].Add) })
	}
}
