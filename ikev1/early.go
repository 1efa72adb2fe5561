package ikev1

import (
	"bytes"
	"slices"
	"time"

	"iked/ikev1/message"
	"iked/internal/isakmp"
	"iked/internal/keyex"
)

// Messages close to each other at the end of phase 1. A peer that is through with it
// goes on at once, while the signature of its last message is still being checked here;
// and what we send behind a message that has no answer may be read before it.

// Bounds of what is kept of a peer that is not authenticated yet.
const (
	maxEarly    = 2
	maxEarlyLen = 4096 // octets of one
)

// early keeps a message that came before the end of phase 1 is seen, if phase 1 waits
// for nothing but work of this system. False: it may not come now.
func (sa *SA) early(h isakmp.Header, d keyex.Datagram) bool {
	switch kind := message.Exchange(h.Exchange); {
	case sa.p1 == nil || !sa.p1.proving:
		return false
	case kind != message.ExchangeQuick && kind != message.ExchangeTransaction, h.Flags&message.FlagEncryption == 0, h.MessageID == 0:
		return false
	case slices.ContainsFunc(sa.p1.early, func(e keyex.Datagram) bool { return bytes.Equal(e.Data, d.Data) }):
		return true
	case len(sa.p1.early) >= maxEarly || len(d.Data) > maxEarlyLen:
		return false
	}
	d.Data = bytes.Clone(d.Data)
	sa.p1.early = append(sa.p1.early, d)
	return true
}

// settleTime is how long a Quick Mode of ours stays behind a message of ours that has no
// answer. strongSwan reads messages of one ISAKMP SA by several threads, and deletes the
// SA when a Quick Mode overtakes what ends XAuth or Aggressive Mode.
const settleTime = 100 * time.Millisecond

// settle lets the peer read our last message before Quick Mode begins.
func (sa *SA) settle(now time.Time) {
	if sa.initiator {
		sa.quickAt = now.Add(settleTime)
	}
}
