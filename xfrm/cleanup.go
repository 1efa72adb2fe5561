package xfrm

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/backend"
)

// CleanUp deals with what a kernel backend that ended without Close left in the
// network namespace of the calling thread, when another backend is to carry the
// traffic: the device of virtual addresses, SAs and policies that let traffic pass go
// at once, those that protect block for backend.Grace. Only what is named in the
// journal in o.State is touched. nil: nothing is left.
func CleanUp(o Options) (*backend.Leftovers, error) { return cleanUp(o, backend.Grace) }

func cleanUp(o Options, grace time.Duration) (*backend.Leftovers, error) {
	b := newBackend(o)
	b.grace = grace
	addrs, device := newAddresses(b.opt.Device, b.opt.Mark)
	addrs.close()
	if !hasJournal(b.opt.State) {
		return nil, device
	}
	var err error
	if b.req, err = newSocket(); errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, device // no XFRM, so nothing is there
	} else if err != nil {
		return nil, errors.Join(device, err)
	}
	if b.journal, err = openJournal(b.opt.State); err != nil {
		b.release()
		return nil, errors.Join(device, err)
	}
	b.watchJournal(nil)
	b.adopt()
	if b.nothingLeft() {
		return nil, errors.Join(device, b.endLeft(true))
	}
	step := func(now time.Time) bool {
		b.dropOrphans(now)
		b.retryIfDue(now)
		return b.nothingLeft()
	}
	return backend.WatchLeftovers(keepPeriod, step, b.endLeft), device
}

// hasJournal tells whether there may be a journal; a folder that cannot be looked
// into may have one.
func hasJournal(dir string) bool {
	if dir == "" {
		return false
	}
	_, err := os.Stat(journalPath(dir))
	return !errors.Is(err, fs.ErrNotExist)
}

func (b *Backend) nothingLeft() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.entries) == 0 && len(b.journal.left) == 0
}

func (b *Backend) endLeft(remove bool) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if remove {
		err = errors.Join(b.removeAll(), b.journal.remove())
	}
	b.release()
	return err
}
