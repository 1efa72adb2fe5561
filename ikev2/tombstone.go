package ikev2

import (
	"iked/ikev2/message"
	"iked/internal/isakmp"
)

// tombstone answers retransmissions of the last request that a closed SA
// answered (RFC 7296, Section 2.1): its response may have been lost.
type tombstone struct {
	spiI, spiR isakmp.SPI
	id         uint32
	fromI      bool // requests carry the Initiator flag
	in         *sealer
	answer     [][]byte
}

// tombstone keeps the last response; nil when there is none.
func (sa *SA) tombstone() Tombstone {
	w := &sa.window
	if w.last == nil || sa.keys == nil {
		return nil
	}
	return &tombstone{sa.spiI, sa.spiR, w.recvID - 1, !sa.initiator, sa.keys.in.clone(), w.last}
}

// Destroy wipes the keys.
func (t *tombstone) Destroy() { t.in.destroy() }

// Answer is the response to send when d is that request, authentic; nil
// otherwise. It decrypts d in place.
func (t *tombstone) Answer(d Datagram) []Datagram {
	enc, err := message.FindEncrypted(d.Data)
	h := enc.Header
	if err != nil || enc.Fragment > 1 || h.SPIi != t.spiI || h.SPIr != t.spiR || h.MessageID != t.id ||
		h.Flags&message.FlagResponse != 0 || (h.Flags&message.FlagInitiator != 0) != t.fromI {
		return nil
	}
	if _, err := enc.Open(t.in, d.Data); err != nil {
		return nil
	}
	out := make([]Datagram, 0, len(t.answer))
	for _, b := range t.answer {
		out = append(out, Datagram{Local: d.Local, Remote: d.Remote, NATT: d.NATT, Data: b})
	}
	return out
}
