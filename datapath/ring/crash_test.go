package ring

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/internal/transport/batch"
)

const crashEnv = "IKED_TEST_RING_CRASH"

// TestCrashed is the process that TestCrash kills.
func TestCrashed(t *testing.T) {
	if os.Getenv(crashEnv) == "" {
		return
	}
	r, err := New(Options{Mark: 1})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	r.Serve(func([]batch.Packet) {})
	r.Take(here4, peer4, spi)
	r.Take(here6, peer6, spi)
	program, err := objectID(r.prog)
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("program", program)
	select {}
}

// objectByID is a part of bpf_attr, see bpf.go.
type objectByID struct{ id, next, flags uint32 }

// objectID is the number of a program, by which it is found while it exists.
func objectID(fd int) (uint32, error) {
	info := make([]uint32, 64) // struct bpf_prog_info: type, id
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(info))), 4*len(info))
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, &infoByFD{fd: uint32(fd), size: uint32(len(b)), info: address(b)})
	return info[1], err
}

// A process that is killed leaves nothing: the stack has the packets at once, and
// the program is gone.
func TestCrash(t *testing.T) {
	s := newWire(t)
	self, err := os.Executable()
	s.must(err)
	p, err := s.here.Start(testnet.Command{Name: "crash", Args: []string{self, "-test.run=^TestCrashed$"}, Env: []string{crashEnv + "=1"}})
	s.must(err)
	var id uint32
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) || !p.Alive() && id == 0 {
				t.Fatalf("%s\n%s", what, p.Log())
			}
		}
	}
	wait("no program", func() bool {
		_, after, ok := strings.Cut(p.Log(), "program ")
		if ok {
			_, err := fmt.Sscan(after, &id)
			ok = err == nil
		}
		return ok
	})
	exists := func() bool {
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, &objectByID{id: id})
		if err == nil {
			unix.Close(fd)
		}
		return err == nil
	}
	if !exists() {
		t.Fatalf("there is no program %d", id)
	}
	wait("nothing is taken", func() bool { _, stack := s.send("w0", s.families("w0")...); return stack == 0 })
	s.must(p.Signal(unix.SIGKILL))
	<-p.Done()
	if ring, stack := s.send("w0", s.families("w0")...); stack != 2 {
		t.Errorf("after the end %d of 2 packets come through the stack, %d elsewhere", stack, ring)
	}
	wait("the program stays", func() bool { return !exists() })
}
