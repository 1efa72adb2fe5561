package daemon

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needed are the capabilities that the daemon works with.
const needed = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE

// capHeader and capData are the arguments of capset(2), version 3.
type capHeader struct {
	version uint32
	pid     int32
}

type capData struct{ effective, permitted, inheritable uint32 }

// dropPrivileges gives up, in all threads and for good, what the daemon does not
// need: capabilities other than the three above, and the gaining of any by
// running a program. A core dump, which would hold keys, is never written.
func dropPrivileges() error {
	var have [2]capData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, (*unix.CapUserData)(unsafe.Pointer(&have[0]))); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0) // none there: fine
	if have[0].permitted&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range uintptr(unix.CAP_LAST_CAP + 1) {
			if needed&(1<<c) != 0 {
				continue
			}
			if err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("bounding set: %w", err)
			}
		}
	}
	h := &capHeader{version: unix.LINUX_CAPABILITY_VERSION_3}
	want := &[2]capData{{effective: have[0].permitted & needed, permitted: have[0].permitted & needed}}
	err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(want)), 0)
	if err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	// Keys must not end up in a file.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("core limit: %w", err)
	}
	return nil
}

// allThreads makes a system call in every thread of the process; that works only
// in a program without C code.
func allThreads(trap, a1, a2, a3 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0)
	if errno == syscall.ENOTSUP {
		return errors.New("this iked was built with cgo; build it with CGO_ENABLED=0")
	}
	if errno != 0 {
		return errno
	}
	return nil
}
