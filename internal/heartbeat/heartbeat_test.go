package heartbeat

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The world of a program whose threads wait in system calls for packets that do not come
// is not stopped for long. Without the heartbeat the child stands still for a minute
// in two of three runs (go1.26.8, two cores).
func TestWorldIsNotStoppedForLong(t *testing.T) {
	if os.Getenv("HEARTBEAT_CHILD") != "" {
		child()
		return
	}
	// A process of its own: the timers of the test binary would wake the monitor.
	cmd := exec.Command(os.Args[0], "-test.run=^TestWorldIsNotStoppedForLong$")
	cmd.Env = append(os.Environ(), "HEARTBEAT_CHILD=1")
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if d := time.Since(began); d > 45*time.Second {
		t.Errorf("the world stood still: %v for what takes 8 s", d)
	}
}

// child stops the world often while threads go into ppoll.
func child() {
	Start()
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(8) // more threads than processors: one may be stopped anywhere
	var fds [16]int
	for i := range fds {
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
		if err != nil {
			panic(err)
		}
		fds[i] = fd
		go func() {
			for {
				var b [8]byte
				unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b)), 8)
				p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
				unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, 0, 0, 0, 0)
			}
		}()
	}
	one := [8]byte{7: 1}
	end := time.Now().Add(8 * time.Second)
	for n := 0; n < 1_000_000 && time.Now().Before(end); n++ {
		for _, fd := range fds {
			unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m) // stops the world
	}
}
