package guard

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Left are the tables of a Guard that ended without Close.
type Left struct {
	conn   *nftables.Conn
	tables []*nftables.Table
}

// FindLeft looks for the tables of a device in the network namespace of the calling
// thread, and changes nothing. A kernel without nf_tables has none.
func FindLeft(device string) (*Left, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return &Left{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("netfilter: %w", err)
	}
	l := &Left{conn: conn}
	all, err := conn.ListTables()
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) { // the answers of a kernel without nf_tables
		return nil, errors.Join(fmt.Errorf("list netfilter tables: %w", err), conn.CloseLasting())
	}
	for _, t := range all {
		if t.Name == TableName(device) && (t.Family == nftables.TableFamilyINet || t.Family == nftables.TableFamilyARP) {
			l.tables = append(l.tables, t)
		}
	}
	return l, nil
}

// Empty tells that there is nothing.
func (l *Left) Empty() bool { return len(l.tables) == 0 }

// Remove removes them.
func (l *Left) Remove() error {
	var errs []error
	var stay []*nftables.Table
	for _, t := range l.tables {
		l.conn.DelTable(t)
		if err := flush(l.conn); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the netfilter table %s: %w", t.Name, err))
			stay = append(stay, t)
		}
	}
	l.tables = stay
	return errors.Join(errs...)
}

// Close ends the work with them, and leaves them where they are.
func (l *Left) Close() error {
	if l.conn == nil {
		return nil
	}
	return l.conn.CloseLasting()
}
