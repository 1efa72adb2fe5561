package wire

// Mark is struct xfrm_mark.
type Mark struct{ Value, Mask uint32 }

func (m *Mark) append(b []byte) []byte { return append32(append32(b, m.Value), m.Mask) }
func (m *Mark) read(r *reader)         { m.Value, m.Mask = r.u32(), r.u32() }

// EncapUDP and EncapTCP are the kinds of encapsulation (RFC 3948, RFC 9329).
const (
	EncapUDP uint16 = 2
	EncapTCP uint16 = 7
)

// Encap is struct xfrm_encap_tmpl; ports are those of the outer datagram.
type Encap struct {
	Type             uint16
	SrcPort, DstPort uint16
	Original         Address
}

func (e *Encap) append(b []byte) []byte {
	b = append16(b, e.Type)
	b = be16(be16(b, e.SrcPort), e.DstPort)
	return append(pad(b, 2), e.Original[:]...)
}

func (e *Encap) read(r *reader) {
	e.Type, e.SrcPort, e.DstPort = r.u16(), r.be16(), r.be16()
	r.skip(2)
	e.Original = r.address()
}

// SecCtx is struct xfrm_user_sec_ctx, a label of a security module (SELinux).
type SecCtx struct {
	Alg, DOI uint8
	Label    []byte
}

const secCtxLen = 8

// Replay is struct xfrm_replay_state: the last sequence number sent, the highest
// one received, and the window below it.
type Replay struct{ OSeq, Seq, Bitmap uint32 }

func (s *Replay) append(b []byte) []byte {
	return append32(append32(append32(b, s.OSeq), s.Seq), s.Bitmap)
}
func (s *Replay) read(r *reader) { s.OSeq, s.Seq, s.Bitmap = r.u32(), r.u32(), r.u32() }

// ReplayESN is struct xfrm_replay_state_esn, for windows above 32 and extended
// sequence numbers. Bit (s-1) mod Window of Bitmap is sequence number s.
type ReplayESN struct {
	OSeq, Seq, OSeqHi, SeqHi uint32
	Window                   uint32 // packets
	Bitmap                   []uint32
}

const replayESNLen = 24

func (s *ReplayESN) append(b []byte) []byte {
	for _, v := range [...]uint32{uint32(len(s.Bitmap)), s.OSeq, s.Seq, s.OSeqHi, s.SeqHi, s.Window} {
		b = append32(b, v)
	}
	for _, v := range s.Bitmap {
		b = append32(b, v)
	}
	return b
}

func parseReplayESN(v []byte) (*ReplayESN, error) {
	if len(v) < replayESNLen {
		return nil, malformed("replay state of %d octets, expected at least %d", len(v), replayESNLen)
	}
	r := reader{b: v}
	n := r.u32()
	s := &ReplayESN{OSeq: r.u32(), Seq: r.u32(), OSeqHi: r.u32(), SeqHi: r.u32(), Window: r.u32()}
	if n > maxReplayWords || uint64(len(r.b)) != uint64(n)*4 {
		return nil, malformed("replay bitmap of %d words, found %d octets", n, len(r.b))
	}
	if s.Window > n*32 {
		return nil, malformed("replay window of %d packets in a bitmap of %d words", s.Window, n)
	}
	for range n {
		s.Bitmap = append(s.Bitmap, r.u32())
	}
	return s, nil
}

// Flags of Offload.
const (
	OffloadIPv6    uint8 = 1
	OffloadInbound uint8 = 2
	OffloadPacket  uint8 = 4
)

// Offload is struct xfrm_user_offload.
type Offload struct {
	IfIndex int32
	Flags   uint8
}

func (o *Offload) append(b []byte) []byte {
	return append(append32(b, uint32(o.IfIndex)), o.Flags, 0, 0, 0)
}

func (o *Offload) read(r *reader) {
	o.IfIndex, o.Flags = int32(r.u32()), r.u8()
	r.skip(3)
}

// AddressFilter is struct xfrm_address_filter: SAs of these outer addresses.
type AddressFilter struct {
	Src, Dst       Address
	Family         uint16
	SrcLen, DstLen uint8
}

func (f *AddressFilter) append(b []byte) []byte {
	b = append(b, f.Src[:]...)
	b = append(b, f.Dst[:]...)
	return append(append16(b, f.Family), f.SrcLen, f.DstLen)
}

func (f *AddressFilter) read(r *reader) {
	f.Src, f.Dst, f.Family = r.address(), r.address(), r.u16()
	f.SrcLen, f.DstLen = r.u8(), r.u8()
}
