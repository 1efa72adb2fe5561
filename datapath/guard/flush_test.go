package guard

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// A kernel without a part of nf_tables refuses each rule of a change with the same
// words; they are said once, and the causes are still there to be asked for.
func TestFlushErrorsAreSaidOnce(t *testing.T) {
	enoent := fmt.Errorf("netlink receive: %w", unix.ENOENT)
	err := once(fmt.Errorf("conn.Receive: %w", errors.Join(fmt.Errorf("netlink receive: %w", unix.EOPNOTSUPP), enoent, enoent, enoent)))
	if err.Error() != "conn.Receive: netlink receive: operation not supported; netlink receive: no such file or directory" {
		t.Errorf("%q", err)
	}
	if !errors.Is(err, unix.ENOENT) || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("the causes are lost: %v", err)
	}
	if once(nil) != nil {
		t.Error("an error without one")
	}
}
