package message

import (
	"encoding/binary"
	"net/netip"
)

// Configuration attributes of Mobile IPv6.

// HomePrefix is a MIP6_HOME_PREFIX (RFC 5026, Section 5.2): a prefix of the home link.
//
//	+---------------------------------------------------------------+
//	|                        Prefix Lifetime                        |
//	~                          Home Prefix                          ~
//	+---------------+-----------------------------------------------+
//	| Prefix Length |
//	+---------------+
type HomePrefix struct {
	// Lifetime in seconds; all ones: for ever.
	Lifetime uint32
	Prefix   netip.Prefix
}

// Attribute is the attribute of a home prefix.
func (h HomePrefix) Attribute() CPAttribute {
	v := binary.BigEndian.AppendUint32(nil, h.Lifetime)
	v = append(v, h.Prefix.Masked().Addr().AsSlice()...)
	return CPAttribute{Type: MIP6HomePrefix, Value: append(v, byte(h.Prefix.Bits()))}
}

// HomePrefix reads a value of 21 octets; false for other values, and for what is no
// prefix that a link can have.
func (a CPAttribute) HomePrefix() (HomePrefix, bool) {
	if len(a.Value) != 21 {
		return HomePrefix{}, false
	}
	p := netip.PrefixFrom(netip.AddrFrom16([16]byte(a.Value[4:20])), int(a.Value[20]))
	if !p.IsValid() || p.Addr().Is4In6() || !p.Masked().Addr().IsGlobalUnicast() {
		return HomePrefix{}, false
	}
	return HomePrefix{Lifetime: binary.BigEndian.Uint32(a.Value), Prefix: p.Masked()}, true
}

// HomeAgent is a HOME_AGENT_ADDRESS (3GPP TS 24.302): the IPv6 address of the home
// agent, and its IPv4 address if it has one.
type HomeAgent struct {
	Addr  netip.Addr
	Addr4 netip.Addr // invalid: none
}

// Attribute is the attribute of a home agent.
func (h HomeAgent) Attribute() CPAttribute {
	v := h.Addr.AsSlice()
	if h.Addr4.IsValid() {
		v = append(v, h.Addr4.AsSlice()...)
	}
	return CPAttribute{Type: HomeAgentAddress, Value: v}
}

// HomeAgent reads a value of 16 or 20 octets; false for other values, and for
// addresses that no host has.
func (a CPAttribute) HomeAgent() (h HomeAgent, ok bool) {
	if n := len(a.Value); n != 16 && n != 20 {
		return h, false
	}
	h.Addr = netip.AddrFrom16([16]byte(a.Value[:16]))
	if h.Addr.Is4In6() || !h.Addr.IsGlobalUnicast() {
		return HomeAgent{}, false
	}
	if len(a.Value) == 20 {
		if h.Addr4 = netip.AddrFrom4([4]byte(a.Value[16:])); !h.Addr4.IsGlobalUnicast() {
			return HomeAgent{}, false
		}
	}
	return h, true
}
