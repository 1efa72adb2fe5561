package form

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"iked/migrate"
	"iked/spd"
)

// Numbers of PF_KEY (RFC 2367, Section 2, and Linux's extensions).
const (
	pfKeyV2     = 2
	sadbMigrate = 24 // SADB_X_MIGRATE
	satypeAH    = 2
	satypeESP   = 3

	extSrc       = 5  // SADB_EXT_ADDRESS_SRC
	extDst       = 6  // SADB_EXT_ADDRESS_DST
	extPolicy    = 18 // SADB_X_EXT_POLICY
	extKMAddress = 25 // SADB_X_EXT_KMADDRESS

	anyProto    = 255 // IPSEC_PROTO_ANY
	policyIPsec = 2   // IPSEC_POLICY_IPSEC
	levelNeeded = 2   // IPSEC_LEVEL_REQUIRE
	levelUnique = 3   // IPSEC_LEVEL_UNIQUE

	afInet  = 2
	afInet6 = 10

	sadbHeader  = 16
	requestLen  = 16 // struct sadb_x_ipsecrequest without its addresses
	sockaddrIn  = 16
	sockaddrIn6 = 28
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("SADB_X_MIGRATE: "+format, args...)
}

// IsPFKeyMigrate tells whether a message of PF_KEY is one for ParsePFKey. One that the
// kernel answers with an error to whoever asked is none.
func IsPFKeyMigrate(b []byte) bool {
	return len(b) >= 3 && b[0] == pfKeyV2 && b[1] == sadbMigrate && b[2] == 0
}

// ParsePFKey reads one SADB_X_MIGRATE, base header included. Linux writes no ports,
// no type of policy and no interface into what it broadcasts, so netlink is the
// better source where there is a choice.
//
//	base, [KMADDRESS,] address(S), address(D), policy
func ParsePFKey(b []byte) (*migrate.Event, error) {
	if len(b) < sadbHeader {
		return nil, malformed("%d octets, expected a header of %d", len(b), sadbHeader)
	}
	if b[0] != pfKeyV2 || b[1] != sadbMigrate {
		return nil, malformed("version %d and type %d, expected %d and %d", b[0], b[1], pfKeyV2, sadbMigrate)
	}
	if b[2] != 0 {
		return nil, malformed("the kernel reports error %d", b[2])
	}
	if n := int(binary.NativeEndian.Uint16(b[4:])) * 8; n != len(b) {
		return nil, malformed("a length of %d octets, found %d", n, len(b))
	}
	e := &migrate.Event{Source: migrate.PFKey}
	var seen [extKMAddress + 1]bool
	var proto [2]uint8
	for b = b[sadbHeader:]; len(b) > 0; {
		x, rest, err := extension(b)
		if err != nil {
			return nil, err
		}
		b = rest
		t := binary.NativeEndian.Uint16(x[2:])
		if int(t) < len(seen) {
			if seen[t] {
				return nil, malformed("extension %d stands twice", t)
			}
			seen[t] = true
		}
		switch t {
		case extSrc:
			proto[0], err = readAddress(x, &e.Selector.Src, &e.Selector.SrcPort, &e.Selector.SrcMask)
		case extDst:
			proto[1], err = readAddress(x, &e.Selector.Dst, &e.Selector.DstPort, &e.Selector.DstMask)
		case extPolicy:
			err = readPolicy(x, e)
		case extKMAddress:
			err = readKMAddress(x, e)
		}
		if err != nil {
			return nil, err
		}
	}
	if !seen[extSrc] || !seen[extDst] || !seen[extPolicy] {
		return nil, malformed("source, destination or policy is missing")
	}
	if proto[0] != proto[1] {
		return nil, malformed("protocols %d and %d in the two halves of the selector", proto[0], proto[1])
	}
	if e.Selector.Proto = proto[0]; proto[0] == anyProto {
		e.Selector.Proto = 0
	}
	if err := e.Check(); err != nil {
		return nil, err
	}
	return e, nil
}

// extension is the next one, and what is behind it.
func extension(b []byte) (x, rest []byte, err error) {
	if len(b) < 8 {
		return nil, nil, malformed("%d octets where an extension should be", len(b))
	}
	n := int(binary.NativeEndian.Uint16(b)) * 8
	if n < 8 || n > len(b) {
		return nil, nil, malformed("an extension of %d octets, %d are left", n, len(b))
	}
	return b[:n], b[n:], nil
}

// readSockaddr reads a struct sockaddr_in or sockaddr_in6.
func readSockaddr(b []byte) (a netip.Addr, port uint16, size int, err error) {
	if len(b) < 4 {
		return a, 0, 0, malformed("%d octets where an address should be", len(b))
	}
	port = binary.BigEndian.Uint16(b[2:])
	switch f := binary.NativeEndian.Uint16(b); {
	case f == afInet && len(b) >= sockaddrIn:
		return netip.AddrFrom4([4]byte(b[4:8])), port, sockaddrIn, nil
	case f == afInet6 && len(b) >= sockaddrIn6:
		return netip.AddrFrom16([16]byte(b[8:24])), port, sockaddrIn6, nil
	case f == afInet || f == afInet6:
		return a, 0, 0, malformed("%d octets for an address of family %d", len(b), f)
	default:
		return a, 0, 0, malformed("an address of family %d", f)
	}
}

// readAddress reads a half of the selector.
func readAddress(x []byte, p *netip.Prefix, port, mask *uint16) (proto uint8, err error) {
	a, n, _, err := readSockaddr(x[8:])
	if err != nil {
		return 0, err
	}
	if int(x[5]) > a.BitLen() {
		return 0, malformed("a prefix length of %d with %v", x[5], a)
	}
	*p = netip.PrefixFrom(a, int(x[5])).Masked()
	if *port = n; n != 0 {
		*mask = 0xffff
	}
	return x[4], nil
}

// readPolicy reads the direction and the pairs of requests: where each SA was, and
// where it is.
func readPolicy(x []byte, e *migrate.Event) error {
	if len(x) < 16 {
		return malformed("a policy of %d octets", len(x))
	}
	if t := binary.NativeEndian.Uint16(x[4:]); t != policyIPsec {
		return malformed("policy type %d, expected %d", t, policyIPsec)
	}
	switch x[6] { // IPSEC_DIR_INBOUND, _OUTBOUND, _FWD
	case 1:
		e.Dir = migrate.In
	case 2:
		e.Dir = migrate.Out
	case 3:
		e.Dir = migrate.Fwd
	default:
		return malformed("policy direction %d", x[6])
	}
	for x = x[16:]; len(x) >= requestLen; {
		old, rest, err := readRequest(x)
		if err != nil {
			return err
		}
		next, rest, err := readRequest(rest)
		if err != nil {
			return err
		}
		if old.proto != next.proto || old.mode != next.mode || old.reqid != next.reqid {
			return malformed("an SA changes protocol, mode or request id")
		}
		x = rest
		mode, ok := pfKeyMode(old.mode)
		if !ok || old.proto != uint16(ipESP) && old.proto != uint16(ipAH) {
			continue
		}
		e.Entries = append(e.Entries, migrate.Entry{Proto: uint8(old.proto), Mode: mode, ReqID: old.reqid, Old: old.pair, New: next.pair})
	}
	return nil
}

type ipsecRequest struct {
	proto uint16
	mode  uint8
	reqid uint32
	pair  migrate.Pair
}

// readRequest reads a struct sadb_x_ipsecrequest with its two addresses.
func readRequest(b []byte) (r ipsecRequest, rest []byte, err error) {
	if len(b) < requestLen {
		return r, nil, malformed("a request of %d octets", len(b))
	}
	n := int(binary.NativeEndian.Uint16(b)) // octets, unlike all other lengths
	if n < requestLen || n > len(b) {
		return r, nil, malformed("a request of %d octets, %d are left", n, len(b))
	}
	r.proto, r.mode, r.reqid = binary.NativeEndian.Uint16(b[2:]), b[4], binary.NativeEndian.Uint32(b[8:])
	src, _, size, err := readSockaddr(b[requestLen:n])
	if err != nil {
		return r, nil, err
	}
	dst, _, _, err := readSockaddr(b[requestLen+size : n])
	if err != nil {
		return r, nil, err
	}
	r.pair = migrate.Pair{Src: src, Dst: dst}
	return r, b[n:], nil
}

func readKMAddress(x []byte, e *migrate.Event) error {
	local, _, size, err := readSockaddr(x[8:])
	if err != nil {
		return err
	}
	remote, _, _, err := readSockaddr(x[8+size:])
	if err != nil {
		return err
	}
	e.KM = migrate.Ends{Local: local, Remote: remote}
	return nil
}

// pfKeyMode reads IPSEC_MODE_TRANSPORT, _TUNNEL and _BEET.
func pfKeyMode(m uint8) (spd.Mode, bool) {
	switch m {
	case 1:
		return spd.Transport, true
	case 2:
		return spd.Tunnel, true
	case 3:
		return spd.BEET, true
	}
	return 0, false
}

// AppendPFKey appends the SADB_X_MIGRATE of an event.
func AppendPFKey(b []byte, e *migrate.Event, seq, pid uint32) []byte {
	start := len(b)
	satype := byte(0)
	if len(e.Entries) > 0 {
		satype = satypeESP
		if e.Entries[0].Proto == ipAH {
			satype = satypeAH
		}
	}
	b = append(b, pfKeyV2, sadbMigrate, 0, satype, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, pid)
	if e.KM.Local.IsValid() {
		b = appendExtension(b, extKMAddress, func(b []byte) []byte {
			return appendSockaddr(appendSockaddr(append(b, 0, 0, 0, 0), e.KM.Local, 0), e.KM.Remote, 0)
		})
	}
	proto := e.Selector.Proto
	if proto == 0 {
		proto = anyProto
	}
	half := func(t uint16, p netip.Prefix, port uint16) {
		b = appendExtension(b, t, func(b []byte) []byte {
			return appendSockaddr(append(b, proto, byte(p.Bits()), 0, 0), p.Addr(), port)
		})
	}
	half(extSrc, e.Selector.Src, e.Selector.SrcPort&e.Selector.SrcMask)
	half(extDst, e.Selector.Dst, e.Selector.DstPort&e.Selector.DstMask)
	b = appendExtension(b, extPolicy, func(b []byte) []byte {
		b = binary.NativeEndian.AppendUint16(b, policyIPsec)
		b = append(b, byte(e.Dir)+1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		for _, x := range e.Entries {
			old := x.Old
			if old.Unspecified() {
				none := netip.IPv6Unspecified()
				if x.New.Dst.Is4() {
					none = netip.IPv4Unspecified()
				}
				old = migrate.Pair{Src: none, Dst: none}
			}
			b = appendRequest(appendRequest(b, &x, old), &x, x.New)
		}
		return b
	})
	binary.NativeEndian.PutUint16(b[start+4:], uint16((len(b)-start)/8))
	return b
}

// appendExtension appends one with its length, padded to eight octets.
func appendExtension(b []byte, t uint16, body func([]byte) []byte) []byte {
	start := len(b)
	b = binary.NativeEndian.AppendUint16(append(b, 0, 0), t)
	b = body(b)
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	binary.NativeEndian.PutUint16(b[start:], uint16((len(b)-start)/8))
	return b
}

func appendRequest(b []byte, x *migrate.Entry, p migrate.Pair) []byte {
	start := len(b)
	level := byte(levelNeeded)
	if x.ReqID != 0 {
		level = levelUnique
	}
	mode := byte(2)
	switch x.Mode {
	case spd.Transport:
		mode = 1
	case spd.BEET:
		mode = 3
	}
	b = append(b, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, uint16(x.Proto))
	b = append(b, mode, level, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, x.ReqID)
	b = append(b, 0, 0, 0, 0)
	b = appendSockaddr(appendSockaddr(b, p.Src, 0), p.Dst, 0)
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

func appendSockaddr(b []byte, a netip.Addr, port uint16) []byte {
	if a.Is4() {
		b = binary.NativeEndian.AppendUint16(b, afInet)
		b = binary.BigEndian.AppendUint16(b, port)
		b = append(b, a.AsSlice()...)
		return append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	b = binary.NativeEndian.AppendUint16(b, afInet6)
	b = binary.BigEndian.AppendUint16(b, port)
	b = append(b, 0, 0, 0, 0) // flow label
	b = append(b, a.AsSlice()...)
	return append(b, 0, 0, 0, 0) // scope
}
