package xfrm

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/trace"
	"iked/migrate/form"
)

// keyListener hears what the kernel tells all sockets of PF_KEY (RFC 2367), where it has
// that (CONFIG_NET_KEY). MIGRATE alone is of interest, and netlink says it better; the
// socket is for what netlink loses.
type keyListener struct {
	file *os.File
	raw  syscall.RawConn
}

const (
	pfKeyV2 = 2 // PF_KEY_V2, the only protocol
	// keyBuffer is what waits to be read: every change of an SA is told here too, and
	// what finds no room is lost without a word.
	keyBuffer = 4 << 20
	// maxKeyMessage is room for a MIGRATE of six entries; of longer messages the rest is
	// cut off.
	maxKeyMessage = 4096
)

// errNoPFKey is that of a kernel without it, or one that has not loaded it. A socket
// would have it loaded, which nobody asked for: who uses PF_KEY has it there.
var errNoPFKey = errors.New("the kernel has no PF_KEY (CONFIG_NET_KEY is not set, or af_key is not loaded)")

// hasPFKey looks whether it is there.
func hasPFKey() bool {
	b, err := os.ReadFile("/proc/thread-self/net/protocols")
	return err == nil && listsPFKey(string(b))
}

// listsPFKey reads /proc/net/protocols.
func listsPFKey(text string) bool {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "KEY" {
			return true
		}
	}
	return false
}

func newKeyListener() (*keyListener, error) {
	if !hasPFKey() {
		return nil, errNoPFKey
	}
	fd, err := unix.Socket(unix.AF_KEY, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, pfKeyV2)
	if err != nil {
		return nil, os.NewSyscallError("PF_KEY socket", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, keyBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, keyBuffer)
	}
	k := &keyListener{file: os.NewFile(uintptr(fd), "PF_KEY events")}
	if k.raw, err = k.file.SyscallConn(); err != nil {
		k.file.Close()
		return nil, err
	}
	return k, nil
}

// close ends the listener; that of nil, which there is not, does nothing.
func (k *keyListener) close() {
	if k != nil {
		k.file.Close()
	}
}

// next waits for a message; not ok: the listener is closed. Of a message that is longer
// than buf the beginning is given.
func (k *keyListener) next(buf []byte) (b []byte, ok bool, err error) {
	var n int
	if k.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buf, 0)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	}) != nil {
		return nil, false, nil
	}
	return buf[:max(n, 0)], true, err
}

// listenPFKey opens PF_KEY, which is as good as not there where that fails.
func (b *Backend) listenPFKey() {
	var err error
	if b.keys, err = newKeyListener(); err != nil {
		b.opt.Log(trace.Record{At: time.Now(), Level: trace.Detail, Group: trace.KNL, Msg: "PF_KEY is not listened to, netlink alone tells of a MIGRATE: " + err.Error()})
	}
}

// hearPFKey is the goroutine of PF_KEY.
func (b *Backend) hearPFKey() {
	buf := make([]byte, maxKeyMessage)
	for {
		m, ok, err := b.keys.next(buf)
		if !ok {
			return
		}
		if err != nil {
			time.Sleep(keepPeriod)
			continue
		}
		b.pfKey(m)
		clear(m) // messages about SAs have their keys
	}
}

// pfKey handles a message of PF_KEY.
func (b *Backend) pfKey(m []byte) {
	if !form.IsPFKeyMigrate(m) {
		return
	}
	ev, err := form.ParsePFKey(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.migrated(ev, err)
	}
}
