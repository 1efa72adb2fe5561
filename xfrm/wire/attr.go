package wire

import (
	"bytes"
	"encoding/binary"
)

// Attribute numbers (enum xfrm_attr_type_t).
const (
	attrAlgAuth uint16 = 1 + iota
	attrAlgCrypt
	attrAlgComp
	attrEncap
	attrTmpl
	attrSA
	attrPolicy
	attrSecCtx
	attrLtimeVal
	attrReplayVal
	attrReplayThresh
	attrETimerThresh
	attrSrcAddr
	attrCoAddr
	attrLastUsed
	attrPolicyType
	attrMigrate
	attrAlgAEAD
	attrKMAddress
	attrAlgAuthTrunc
	attrMark
	attrTFCPad
	attrReplayESNVal
	attrSAExtraFlags
	attrProto
	attrAddressFilter
	attrPad
	attrOffloadDev
	attrSetMark
	attrSetMarkMask
	attrIfID
	attrMTimerThresh
	attrSADir
	attrNATKeepalive
	attrSAPCPU
	attrIPTFSDropTime
	attrIPTFSReorderWindow
	attrIPTFSDontFrag
	attrIPTFSInitDelay
	attrIPTFSMaxQSize
	attrIPTFSPktSize
)

const (
	attrTypeMask uint16 = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	maxUnknown          = 64
)

// Directions of Attrs.SADir.
const (
	SADirIn  uint8 = 1
	SADirOut uint8 = 2
)

// Attrs are the attributes that a message may have; what is nil is absent. Append
// writes them in the order of their numbers.
type Attrs struct {
	AlgAuth, AlgCrypt, AlgComp *Algorithm // without an ICV length
	Encap                      *Encap
	Templates                  []Template // from the inside outwards
	SA                         *SAInfo
	Policy                     *PolicyInfo
	SecCtx                     *SecCtx
	LifetimeVal                *Used
	Replay                     *Replay
	ReplayThresh               *uint32 // packets
	ETimerThresh               *uint32 // tenths of a second
	SrcAddr, CoAddr            *Address
	LastUsed                   *uint64 // Unix seconds
	PolicyType                 *uint8  // 0 main, 1 sub-policy
	// Migrate is one attribute with all in a request, and one for each in what the
	// kernel tells.
	Migrate              []Migration
	AlgAEAD              *Algorithm
	KMAddress            *KMAddress
	AlgAuthTrunc         *Algorithm
	Mark                 *Mark
	TFCPad               *uint32 // octets
	ReplayESN            *ReplayESN
	ExtraFlags           *uint32
	Proto                *uint8
	AddressFilter        *AddressFilter
	Offload              *Offload
	SetMark, SetMarkMask *uint32
	IfID                 *uint32
	MTimerThresh         *uint32 // seconds, since Linux 5.17
	SADir                *uint8  // since Linux 6.10
	NATKeepalive         *uint32 // seconds, since Linux 6.11
	PCPU                 *uint32 // since Linux 6.13
	// IP-TFS (RFC 9347), since Linux 6.14; times in microseconds.
	IPTFSDropTime      *uint32
	IPTFSReorderWindow *uint16
	IPTFSDontFrag      bool
	IPTFSInitDelay     *uint32
	IPTFSMaxQueue      *uint32 // octets
	IPTFSPacketSize    *uint32 // octets
	// Unknown are those that this package does not know.
	Unknown []Unknown
}

// Unknown is an attribute as it came.
type Unknown struct {
	Type  uint16
	Value []byte
}

// Destroy overwrites the keys.
func (a *Attrs) Destroy() {
	for _, x := range [...]*Algorithm{a.AlgAuth, a.AlgCrypt, a.AlgComp, a.AlgAEAD, a.AlgAuthTrunc} {
		x.destroy()
	}
}

// attrHead begins an attribute whose value has n octets.
func attrHead(b []byte, t uint16, n int) []byte { return append16(append16(b, uint16(4+n)), t) }

func attr32(b []byte, t uint16, v *uint32) []byte {
	if v == nil {
		return b
	}
	return append32(attrHead(b, t, 4), *v)
}

func attr8(b []byte, t uint16, v *uint8) []byte {
	if v == nil {
		return b
	}
	return append(attrHead(b, t, 1), *v, 0, 0, 0)
}

func attrAddr(b []byte, t uint16, a *Address) []byte {
	if a == nil {
		return b
	}
	return append(attrHead(b, t, 16), a[:]...)
}

// structure is a fixed structure with its own writer and reader.
type structure interface {
	append(b []byte) []byte
	read(r *reader)
}

func attrStruct[T any, P interface {
	*T
	structure
}](b []byte, t uint16, v P) []byte {
	if v == nil {
		return b
	}
	start := len(b)
	b = v.append(attrHead(b, t, 0))
	n := len(b) - start
	binary.NativeEndian.PutUint16(b[start:], uint16(n))
	return pad(b, align(n)-n)
}

func attrList[T any, P interface {
	*T
	structure
}](b []byte, t uint16, size int, list []T) []byte {
	if len(list) == 0 {
		return b
	}
	b = attrHead(b, t, size*len(list))
	for i := range list {
		b = P(&list[i]).append(b)
	}
	return b
}

func (a *Attrs) append(b []byte) []byte {
	b = appendAlgorithm(b, attrAlgAuth, a.AlgAuth)
	b = appendAlgorithm(b, attrAlgCrypt, a.AlgCrypt)
	b = appendAlgorithm(b, attrAlgComp, a.AlgComp)
	b = attrStruct(b, attrEncap, a.Encap)
	b = attrList(b, attrTmpl, templateLen, a.Templates)
	b = attrStruct(b, attrSA, a.SA)
	b = attrStruct(b, attrPolicy, a.Policy)
	if c := a.SecCtx; c != nil {
		n := secCtxLen + len(c.Label)
		b = attrHead(b, attrSecCtx, n)
		b = append16(append16(b, uint16(n)), attrSecCtx)
		b = append16(append(b, c.Alg, c.DOI), uint16(len(c.Label)))
		b = pad(append(b, c.Label...), align(n)-n)
	}
	b = attrStruct(b, attrLtimeVal, a.LifetimeVal)
	b = attrStruct(b, attrReplayVal, a.Replay)
	b = attr32(b, attrReplayThresh, a.ReplayThresh)
	b = attr32(b, attrETimerThresh, a.ETimerThresh)
	b = attrAddr(b, attrSrcAddr, a.SrcAddr)
	b = attrAddr(b, attrCoAddr, a.CoAddr)
	if a.LastUsed != nil {
		b = append64(attrHead(b, attrLastUsed, 8), *a.LastUsed)
	}
	if a.PolicyType != nil {
		b = append(attrHead(b, attrPolicyType, 6), *a.PolicyType, 0, 0, 0, 0, 0, 0, 0)
	}
	b = attrList(b, attrMigrate, migrationLen, a.Migrate)
	b = appendAlgorithm(b, attrAlgAEAD, a.AlgAEAD)
	b = attrStruct(b, attrKMAddress, a.KMAddress)
	b = appendAlgorithm(b, attrAlgAuthTrunc, a.AlgAuthTrunc)
	b = attrStruct(b, attrMark, a.Mark)
	b = attr32(b, attrTFCPad, a.TFCPad)
	if s := a.ReplayESN; s != nil {
		b = s.append(attrHead(b, attrReplayESNVal, replayESNLen+4*len(s.Bitmap)))
	}
	b = attr32(b, attrSAExtraFlags, a.ExtraFlags)
	b = attr8(b, attrProto, a.Proto)
	b = attrStruct(b, attrAddressFilter, a.AddressFilter)
	b = attrStruct(b, attrOffloadDev, a.Offload)
	b = attr32(b, attrSetMark, a.SetMark)
	b = attr32(b, attrSetMarkMask, a.SetMarkMask)
	b = attr32(b, attrIfID, a.IfID)
	b = attr32(b, attrMTimerThresh, a.MTimerThresh)
	b = attr8(b, attrSADir, a.SADir)
	b = attr32(b, attrNATKeepalive, a.NATKeepalive)
	b = attr32(b, attrSAPCPU, a.PCPU)
	b = attr32(b, attrIPTFSDropTime, a.IPTFSDropTime)
	if a.IPTFSReorderWindow != nil {
		b = pad(append16(attrHead(b, attrIPTFSReorderWindow, 2), *a.IPTFSReorderWindow), 2)
	}
	if a.IPTFSDontFrag {
		b = attrHead(b, attrIPTFSDontFrag, 0)
	}
	b = attr32(b, attrIPTFSInitDelay, a.IPTFSInitDelay)
	b = attr32(b, attrIPTFSMaxQSize, a.IPTFSMaxQueue)
	b = attr32(b, attrIPTFSPktSize, a.IPTFSPacketSize)
	for _, u := range a.Unknown {
		b = append(attrHead(b, u.Type, len(u.Value)), u.Value...)
		b = pad(b, align(len(u.Value))-len(u.Value))
	}
	return b
}

// eachAttr walks attributes; one that does not fit is an error.
func eachAttr(b []byte, f func(t uint16, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return malformed("%d octets, expected an attribute", len(b))
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return malformed("an attribute says it has %d octets, found %d", n, len(b))
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[4:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

func (a *Attrs) parse(b []byte) error {
	var seen uint64
	return eachAttr(b, func(t uint16, v []byte) error {
		if t <= attrIPTFSPktSize && t != attrPad && t != attrMigrate {
			if seen&(1<<t) != 0 {
				return malformed("attribute %d comes twice", t)
			}
			seen |= 1 << t
		}
		return a.parseOne(t, v)
	})
}

func (a *Attrs) parseOne(t uint16, v []byte) (err error) {
	switch t {
	case attrAlgAuth:
		a.AlgAuth, err = parseAlgorithm(t, v)
	case attrAlgCrypt:
		a.AlgCrypt, err = parseAlgorithm(t, v)
	case attrAlgComp:
		a.AlgComp, err = parseAlgorithm(t, v)
	case attrAlgAEAD:
		a.AlgAEAD, err = parseAlgorithm(t, v)
	case attrAlgAuthTrunc:
		a.AlgAuthTrunc, err = parseAlgorithm(t, v)
	case attrEncap:
		a.Encap, err = parseStruct[Encap](t, v, 24)
	case attrTmpl:
		a.Templates, err = parseList(nil, t, v, templateLen, maxTemplates, (*Template).read)
	case attrSA:
		a.SA, err = parseStruct[SAInfo](t, v, saInfoLen)
	case attrPolicy:
		a.Policy, err = parseStruct[PolicyInfo](t, v, policyInfoLen)
	case attrSecCtx:
		a.SecCtx, err = parseSecCtx(v)
	case attrLtimeVal:
		a.LifetimeVal, err = parseStruct[Used](t, v, usedLen)
	case attrReplayVal:
		a.Replay, err = parseStruct[Replay](t, v, 12)
	case attrSrcAddr:
		a.SrcAddr, err = parseAddr(t, v)
	case attrCoAddr:
		a.CoAddr, err = parseAddr(t, v)
	case attrLastUsed:
		if len(v) != 8 {
			return badLen(t, v, 8)
		}
		n := binary.NativeEndian.Uint64(v)
		a.LastUsed = &n
	case attrPolicyType:
		if len(v) != 6 {
			return badLen(t, v, 6)
		}
		n := v[0]
		a.PolicyType = &n
	case attrMigrate:
		a.Migrate, err = parseList(a.Migrate, t, v, migrationLen, maxMigrations, (*Migration).read)
	case attrKMAddress:
		a.KMAddress, err = parseStruct[KMAddress](t, v, kmAddressLen)
	case attrMark:
		a.Mark, err = parseStruct[Mark](t, v, 8)
	case attrReplayESNVal:
		a.ReplayESN, err = parseReplayESN(v)
	case attrProto:
		a.Proto, err = parse8(t, v)
	case attrSADir:
		a.SADir, err = parse8(t, v)
	case attrAddressFilter:
		a.AddressFilter, err = parseStruct[AddressFilter](t, v, 36)
	case attrOffloadDev:
		a.Offload, err = parseStruct[Offload](t, v, 8)
	case attrIPTFSReorderWindow:
		if len(v) != 2 {
			return badLen(t, v, 2)
		}
		n := binary.NativeEndian.Uint16(v)
		a.IPTFSReorderWindow = &n
	case attrIPTFSDontFrag:
		if len(v) != 0 {
			return badLen(t, v, 0)
		}
		a.IPTFSDontFrag = true
	case attrPad:
	default:
		return a.parse32(t, v)
	}
	return err
}

// number is where an attribute of 32 bits is kept; nil: it is none.
func (a *Attrs) number(t uint16) **uint32 {
	switch t {
	case attrReplayThresh:
		return &a.ReplayThresh
	case attrETimerThresh:
		return &a.ETimerThresh
	case attrTFCPad:
		return &a.TFCPad
	case attrSAExtraFlags:
		return &a.ExtraFlags
	case attrSetMark:
		return &a.SetMark
	case attrSetMarkMask:
		return &a.SetMarkMask
	case attrIfID:
		return &a.IfID
	case attrMTimerThresh:
		return &a.MTimerThresh
	case attrNATKeepalive:
		return &a.NATKeepalive
	case attrSAPCPU:
		return &a.PCPU
	case attrIPTFSDropTime:
		return &a.IPTFSDropTime
	case attrIPTFSInitDelay:
		return &a.IPTFSInitDelay
	case attrIPTFSMaxQSize:
		return &a.IPTFSMaxQueue
	case attrIPTFSPktSize:
		return &a.IPTFSPacketSize
	}
	return nil
}

// parse32 handles the attributes that are one number of 32 bits, and those that
// are not known.
func (a *Attrs) parse32(t uint16, v []byte) error {
	p := a.number(t)
	if p == nil {
		if len(a.Unknown) >= maxUnknown {
			return malformed("more than %d unknown attributes", maxUnknown)
		}
		a.Unknown = append(a.Unknown, Unknown{t, bytes.Clone(v)})
		return nil
	}
	if len(v) != 4 {
		return badLen(t, v, 4)
	}
	n := binary.NativeEndian.Uint32(v)
	*p = &n
	return nil
}

func badLen(t uint16, v []byte, want int) error {
	return malformed("attribute %d has %d octets, expected %d", t, len(v), want)
}

func parseStruct[T any, P interface {
	*T
	structure
}](t uint16, v []byte, size int) (P, error) {
	if len(v) != size {
		return nil, badLen(t, v, size)
	}
	p := P(new(T))
	r := reader{b: v}
	p.read(&r)
	return p, r.done("attribute")
}

func parseList[T any](list []T, t uint16, v []byte, size, most int, read func(*T, *reader)) ([]T, error) {
	if len(v) == 0 || len(v)%size != 0 || len(list)+len(v)/size > most {
		return nil, malformed("attribute %d has %d octets, expected 1 to %d times %d", t, len(v), most, size)
	}
	for r := (reader{b: v}); len(r.b) > 0; {
		var x T
		read(&x, &r)
		list = append(list, x)
	}
	return list, nil
}

func parseAddr(t uint16, v []byte) (*Address, error) {
	if len(v) != 16 {
		return nil, badLen(t, v, 16)
	}
	a := Address(v)
	return &a, nil
}

func parse8(t uint16, v []byte) (*uint8, error) {
	if len(v) != 1 {
		return nil, badLen(t, v, 1)
	}
	n := v[0]
	return &n, nil
}

func parseSecCtx(v []byte) (*SecCtx, error) {
	if len(v) < secCtxLen {
		return nil, badLen(attrSecCtx, v, secCtxLen)
	}
	r := reader{b: v}
	r.skip(4)
	c := &SecCtx{Alg: r.u8(), DOI: r.u8()}
	if n := r.u16(); int(n) != len(r.b) {
		return nil, malformed("security context with a label of %d octets, found %d", n, len(r.b))
	}
	c.Label = bytes.Clone(r.b)
	return c, nil
}
