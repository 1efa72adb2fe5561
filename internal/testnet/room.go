package testnet

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// room lets a socket keep what arrives while its reader waits for the processor: that is
// not lost on its way. Without the privilege the kernel's limit holds.
func room(fd int) {
	const size = 16 << 20
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
}

// roomy does so for a connection.
func roomy(c any) error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return errors.New("testnet: no socket")
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { room(int(fd)) })
}
