package ikev2

import (
	"net/netip"

	"iked/ikev2/message"
)

// SealForTest makes a message with the real keys of sa, as sent by it.
func SealForTest(sa *SA, x message.Exchange, id uint32, response bool, ps ...message.Payload) Datagram {
	b, err := message.Seal(sa.header(x, id, response), ps, sa.keys.out)
	if err != nil {
		panic(err)
	}
	return Datagram{Local: sa.remote, Remote: sa.local, NATT: sa.natt, Data: b}
}

// SealRawForTest makes a message whose encrypted part is plain, the first of
// whose payloads has type first.
func SealRawForTest(sa *SA, x message.Exchange, id uint32, first message.PayloadType, plain []byte) Datagram {
	return SealChainForTest(sa, x, id, false, first, plain)
}

// SealChainForTest is SealRawForTest for both directions.
func SealChainForTest(sa *SA, x message.Exchange, id uint32, response bool, first message.PayloadType, plain []byte) Datagram {
	s := sa.keys.out
	h := sa.header(x, id, response)
	// Room for the whole chain is made by a vendor ID of its length less the
	// generic header; then the chain takes its place.
	if short := 4 - len(plain); short > 0 {
		plain = append(plain[:len(plain):len(plain)], make([]byte, short)...)
	}
	e := &editing{sealer: s, plain: plain, first: byte(first)}
	b, err := message.Seal(h, []message.Payload{&message.VendorID{Data: make([]byte, len(plain)-4)}}, e)
	if err != nil {
		panic(err)
	}
	return Datagram{Local: sa.remote, Remote: sa.local, NATT: sa.natt, Data: b}
}

// editing replaces the plaintext before it is sealed.
type editing struct {
	*sealer
	plain []byte
	first byte
}

func (e *editing) Seal(b []byte, hdr int) error {
	b[hdr-4] = e.first // Next Payload of SK
	copy(b[hdr+e.IVLen():], e.plain)
	return e.sealer.Seal(b, hdr)
}

// MobileForTest tells whether both sides speak MOBIKE.
func MobileForTest(sa *SA) bool { return sa.mobile.on }

// OthersForTest are the peer's further addresses.
func OthersForTest(sa *SA) []netip.Addr { return sa.mobile.others }
