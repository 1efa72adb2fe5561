package ikev2

import (
	"bytes"

	"iked/ikev2/message"
)

// OpenForTest reads a message that sa would receive, and leaves sa and b as they
// were.
func OpenForTest(sa *SA, b []byte) (*message.Message, error) {
	o, err := message.Open(sa.keys.in, bytes.Clone(b))
	if err != nil {
		return nil, err
	}
	return o.Message()
}

// HasKeysForTest tells whether sa can seal and open.
func HasKeysForTest(sa *SA) bool { return sa.keys != nil }

// SkipMessageIDsForTest makes id the number of the next request of sa.
func SkipMessageIDsForTest(sa *SA, id uint32) { sa.window.sendID = id }

// SealFragmentsForTest makes the fragments of a request of sa, each in at most
// size octets.
func SealFragmentsForTest(sa *SA, x message.Exchange, id uint32, size int, ps ...message.Payload) []Datagram {
	bs, err := message.SealFragments(sa.header(x, id, false), ps, sa.keys.out, size)
	if err != nil {
		panic(err)
	}
	var ds []Datagram
	for _, b := range bs {
		ds = append(ds, Datagram{Local: sa.remote, Remote: sa.local, NATT: sa.natt, Data: b})
	}
	return ds
}
