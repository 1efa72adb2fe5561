package testnet

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs fn on a thread of its own that ends with fn, so that fn may
// change the namespaces of the thread without a way back.
//
// The main thread is never used: it cannot end, and /proc/self shows its
// namespaces.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go lockedThread(func() { result <- fn() })
	return <-result
}

// lockedThread must be the whole body of a goroutine: the thread ends when the
// goroutine returns without unlocking.
func lockedThread(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lockedThread(fn)
	}()
	<-done
	runtime.UnlockOSThread()
}
