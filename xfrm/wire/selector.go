package wire

// Selector is struct xfrm_selector: which packets an SA or a policy is for. Ports
// match under a mask; for ICMP the source port is the type and the destination port
// the code.
type Selector struct {
	Dst, Src                                   Address
	DstPort, DstPortMask, SrcPort, SrcPortMask uint16
	Family                                     uint16 // 0: none
	DstLen, SrcLen                             uint8  // prefix lengths
	Proto                                      uint8  // 0: any
	IfIndex                                    int32
	User                                       uint32
}

// SelectorLen is its length.
const SelectorLen = 56

// Append appends the structure.
func (s *Selector) Append(b []byte) []byte {
	b = append(b, s.Dst[:]...)
	b = append(b, s.Src[:]...)
	b = be16(b, s.DstPort)
	b = be16(b, s.DstPortMask)
	b = be16(b, s.SrcPort)
	b = be16(b, s.SrcPortMask)
	b = append16(b, s.Family)
	b = append(b, s.DstLen, s.SrcLen, s.Proto, 0, 0, 0)
	b = append32(b, uint32(s.IfIndex))
	return append32(b, s.User)
}

func (s *Selector) read(r *reader) {
	s.Dst, s.Src = r.address(), r.address()
	s.DstPort, s.DstPortMask, s.SrcPort, s.SrcPortMask = r.be16(), r.be16(), r.be16(), r.be16()
	s.Family = r.u16()
	s.DstLen, s.SrcLen, s.Proto = r.u8(), r.u8(), r.u8()
	r.skip(3)
	s.IfIndex, s.User = int32(r.u32()), r.u32()
}

// check refuses what the kernel would not send: prefixes longer than an address.
func (s *Selector) check() error {
	bits := uint8(128)
	switch s.Family {
	case Inet:
		bits = 32
	case Inet6, 0:
	default:
		return malformed("selector of family %d", s.Family)
	}
	if s.DstLen > bits || s.SrcLen > bits {
		return malformed("selector with prefix lengths %d and %d, expected at most %d", s.DstLen, s.SrcLen, bits)
	}
	return nil
}

// ID is struct xfrm_id.
type ID struct {
	Dst   Address
	SPI   uint32
	Proto uint8
}

func (i *ID) append(b []byte) []byte {
	b = append(b, i.Dst[:]...)
	b = be32(b, i.SPI)
	return append(b, i.Proto, 0, 0, 0)
}

func (i *ID) read(r *reader) {
	i.Dst, i.SPI, i.Proto = r.address(), r.be32(), r.u8()
	r.skip(3)
}

// Infinite is no limit of octets or packets; for times it is 0.
const Infinite = ^uint64(0)

// Lifetime is struct xfrm_lifetime_cfg. Times are seconds, from the installation
// and from the first use.
type Lifetime struct {
	SoftBytes, HardBytes, SoftPackets, HardPackets uint64
	SoftAdd, HardAdd, SoftUse, HardUse             uint64
}

const lifetimeLen = 64

func (l *Lifetime) append(b []byte) []byte {
	for _, v := range [...]uint64{l.SoftBytes, l.HardBytes, l.SoftPackets, l.HardPackets, l.SoftAdd, l.HardAdd, l.SoftUse, l.HardUse} {
		b = append64(b, v)
	}
	return b
}

func (l *Lifetime) read(r *reader) {
	for _, p := range [...]*uint64{&l.SoftBytes, &l.HardBytes, &l.SoftPackets, &l.HardPackets, &l.SoftAdd, &l.HardAdd, &l.SoftUse, &l.HardUse} {
		*p = r.u64()
	}
}

// Used is struct xfrm_lifetime_cur. Times are Unix seconds; 0 is never.
type Used struct{ Bytes, Packets, AddTime, UseTime uint64 }

const usedLen = 32

func (u *Used) append(b []byte) []byte {
	for _, v := range [...]uint64{u.Bytes, u.Packets, u.AddTime, u.UseTime} {
		b = append64(b, v)
	}
	return b
}

func (u *Used) read(r *reader) {
	u.Bytes, u.Packets, u.AddTime, u.UseTime = r.u64(), r.u64(), r.u64(), r.u64()
}
