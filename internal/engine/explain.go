package engine

import (
	"net/netip"
	"sort"
	"strings"
	"sync"

	"iked/internal/trace"
)

// How many failures are kept: per connection, and for peers that matched none.
const (
	failuresPerConn = 8
	failuresUnknown = 64
	failureConns    = 4096
)

// failureLog keeps the last failures for `ikectl explain`.
type failureLog struct {
	mu      sync.Mutex
	conns   map[string][]trace.Failure
	unknown []trace.Failure
}

// add keeps a failure; false when it is the one that was told last.
func (l *failureLog) add(f trace.Failure) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	list, limit := l.conns[f.Conn], failuresPerConn
	if _, known := l.conns[f.Conn]; f.Conn == "" || (!known && len(l.conns) >= failureConns) {
		list, limit = l.unknown, failuresUnknown
	}
	if n := len(list); n > 0 && list[n-1].At.Equal(f.At) && list[n-1].Sentence == f.Sentence {
		return false
	}
	list = pushFailure(list, f, limit)
	if limit == failuresUnknown {
		l.unknown = list
		return true
	}
	if l.conns == nil {
		l.conns = make(map[string][]trace.Failure)
	}
	l.conns[f.Conn] = list
	return true
}

func pushFailure(list []trace.Failure, f trace.Failure, limit int) []trace.Failure {
	if len(list) >= limit {
		copy(list, list[1:])
		list = list[:limit-1]
	}
	return append(list, f)
}

// find returns the failures that concern a peer, newest first. peer may be a
// connection, a child, an address with or without port, or an identity; empty
// means all.
func (l *failureLog) find(peer string) []trace.Failure {
	l.mu.Lock()
	var all []trace.Failure
	for _, list := range l.conns {
		all = append(all, list...)
	}
	all = append(all, l.unknown...)
	l.mu.Unlock()

	out := all[:0]
	for _, f := range all {
		if peer == "" || concerns(&f, peer) {
			out = append(out, f)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].At.After(out[j].At) })
	return out
}

func concerns(f *trace.Failure, peer string) bool {
	if strings.EqualFold(f.Conn, peer) || strings.EqualFold(f.Child, peer) ||
		strings.EqualFold(f.RemoteID, peer) || f.Remote == peer {
		return true
	}
	want, err := netip.ParseAddr(peer)
	if err != nil {
		return false
	}
	have, err := netip.ParseAddrPort(f.Remote)
	return err == nil && have.Addr().Unmap() == want.Unmap()
}

func (l *failureLog) forget(conn string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

// Explain returns the last failed negotiations that concern a peer, newest
// first. peer is a connection, a child, an address or an identity; empty for
// all. A bounded number is kept per connection, and for unknown peers.
func (e *Engine) Explain(peer string) []trace.Failure { return e.failures.find(peer) }
