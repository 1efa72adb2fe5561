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
