package message

import (
	"encoding/binary"

	"iked/internal/isakmp"
)

// InitPeek is what a responder wants of an IKE_SA_INIT request before it
// spends anything on it (RFC 7296, Section 2.6).
type InitPeek struct {
	Header Header
	Group  uint16 // of the KE payload
	Nonce  []byte // Ni; aliases the datagram
	Cookie []byte // data of N(COOKIE), nil when absent; aliases the datagram
}

// PeekIKESAInit walks the chain of an IKE_SA_INIT request without allocation.
// It finds the first SA, KE, Nonce and COOKIE, and looks into nothing else: the
// message may still be faulty. All errors but that of CheckHeader are Drop.
func PeekIKESAInit(b []byte) (InitPeek, error) {
	h, err := CheckHeader(b)
	p := InitPeek{Header: h}
	if err != nil {
		return p, err
	}
	// RFC 7296, Sections 2.2 and 3.1: the first request of an IKE SA.
	switch {
	case h.Exchange != ExchangeIKESAInit:
		return p, drop(ReasonExchange, "expected IKE_SA_INIT, found %s", ExchangeName(h.Exchange))
	case h.Flags&FlagResponse != 0 || h.Flags&FlagInitiator == 0:
		return p, drop(ReasonDirection, "a request of the initiator has flags I and not R, found %#02x", h.Flags)
	case h.MessageID != 0:
		return p, drop(ReasonExchange, "IKE_SA_INIT has message ID 0, found %d", h.MessageID)
	case !h.SPIr.IsZero():
		return p, drop(ReasonZeroSPI, "a first request has no responder SPI, found %v", h.SPIr)
	}
	var sa, ke bool
	c := isakmp.NewChain(h.NextPayload, b[isakmp.HeaderLen:], chainLimits)
	for raw, ok := c.Next(); ok; raw, ok = c.Next() {
		switch t := PayloadType(raw.Type); {
		case t == TypeSA:
			sa = true
		case t == TypeKE && !ke && len(raw.Body) > 4:
			ke, p.Group = true, binary.BigEndian.Uint16(raw.Body)
		case t == TypeNonce && p.Nonce == nil && len(raw.Body) >= MinNonce && len(raw.Body) <= MaxNonce:
			p.Nonce = raw.Body
		case t == TypeNotify && p.Cookie == nil && len(raw.Body) > 4 && raw.Body[1] == 0 &&
			NotifyType(binary.BigEndian.Uint16(raw.Body[2:])) == Cookie:
			p.Cookie = raw.Body[4:]
		}
	}
	if err := c.Err(); err != nil {
		return p, finish(err, false)
	}
	if !sa || !ke || p.Nonce == nil {
		return p, drop(ReasonMissingPayload, "IKE_SA_INIT needs SA, KE and Nonce, found %t, %t and %t", sa, ke, p.Nonce != nil)
	}
	return p, nil
}
