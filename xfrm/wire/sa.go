package wire

// Flags of SAInfo.
const (
	FlagNoECN        uint8 = 1
	FlagDecapDSCP    uint8 = 2
	FlagNoPMTUDisc   uint8 = 4
	FlagWildRecv     uint8 = 8
	FlagICMP         uint8 = 16
	FlagAFUnspec     uint8 = 32
	FlagAlign4       uint8 = 64
	FlagESN          uint8 = 128
	XFlagNoEncap           = 1 // XFRM_SA_XFLAG_DONT_ENCAP_DSCP
	XFlagOSeqMayWrap       = 2
	maxReplayWords         = 128 // XFRMA_REPLAY_ESN_MAX packets
	MaxReplayWindow        = maxReplayWords * 32
)

// Stats is struct xfrm_stats: what an inbound SA refused.
type Stats struct{ ReplayWindow, Replay, IntegrityFailed uint32 }

// SAInfo is struct xfrm_usersa_info.
type SAInfo struct {
	Sel          Selector
	ID           ID
	Src          Address
	Lifetime     Lifetime
	Used         Used
	Stats        Stats
	Seq          uint32 // of the ACQUIRE that it answers
	ReqID        uint32
	Family       uint16 // of the outer addresses
	Mode         uint8
	ReplayWindow uint8 // up to 32; larger ones stand in ReplayESN
	Flags        uint8
}

const saInfoLen = 224

func (s *SAInfo) append(b []byte) []byte {
	b = s.Sel.Append(b)
	b = s.ID.append(b)
	b = append(b, s.Src[:]...)
	b = s.Lifetime.append(b)
	b = s.Used.append(b)
	for _, v := range [...]uint32{s.Stats.ReplayWindow, s.Stats.Replay, s.Stats.IntegrityFailed, s.Seq, s.ReqID} {
		b = append32(b, v)
	}
	b = append16(b, s.Family)
	return pad(append(b, s.Mode, s.ReplayWindow, s.Flags), 7)
}

func (s *SAInfo) read(r *reader) {
	s.Sel.read(r)
	s.ID.read(r)
	s.Src = r.address()
	s.Lifetime.read(r)
	s.Used.read(r)
	for _, p := range [...]*uint32{&s.Stats.ReplayWindow, &s.Stats.Replay, &s.Stats.IntegrityFailed, &s.Seq, &s.ReqID} {
		*p = r.u32()
	}
	s.Family = r.u16()
	s.Mode, s.ReplayWindow, s.Flags = r.u8(), r.u8(), r.u8()
	r.skip(7)
}

// ByID is the identity of the SA.
func (s *SAInfo) ByID() SAID {
	return SAID{Dst: s.ID.Dst, SPI: s.ID.SPI, Family: s.Family, Proto: s.ID.Proto}
}

// SAID is struct xfrm_usersa_id.
type SAID struct {
	Dst    Address
	SPI    uint32
	Family uint16
	Proto  uint8
}

// SAIDLen is its length.
const SAIDLen = 24

// Append appends the structure.
func (s *SAID) Append(b []byte) []byte {
	b = append(b, s.Dst[:]...)
	b = be32(b, s.SPI)
	b = append16(b, s.Family)
	return append(b, s.Proto, 0)
}

func (s *SAID) read(r *reader) {
	s.Dst, s.SPI, s.Family, s.Proto = r.address(), r.be32(), r.u16(), r.u8()
	r.skip(1)
}

// SA is NEWSA and UPDSA: a whole SA.
type SA struct {
	SAInfo
	Attrs
}

// Append implements Message.
func (m *SA) Append(b []byte) []byte { return m.Attrs.append(m.SAInfo.append(b)) }

func (m *SA) parse(b []byte) error {
	r, rest, err := head("SA", b, saInfoLen)
	if err != nil {
		return err
	}
	m.SAInfo.read(&r)
	return finish(&r, "SA", m.SAInfo.Sel.check(), m.Attrs.parse(rest))
}

// SAByID is DELSA and GETSA. A DELSA of the kernel has the whole SA in Attrs.SA
// and the other attributes.
type SAByID struct {
	SAID
	Attrs
}

// Append implements Message.
func (m *SAByID) Append(b []byte) []byte { return m.Attrs.append(m.SAID.Append(b)) }

func (m *SAByID) parse(b []byte) error {
	r, rest, err := head("SA identity", b, SAIDLen)
	if err != nil {
		return err
	}
	m.SAID.read(&r)
	return finish(&r, "SA identity", m.Attrs.parse(rest))
}

// SPIRequest is ALLOCSPI. Of the SA the destination, the protocol, the source,
// mode, ReqID and Seq count. The answer is a NEWSA.
type SPIRequest struct {
	SAInfo
	Min, Max uint32
	Attrs
}

// Append implements Message.
func (m *SPIRequest) Append(b []byte) []byte {
	b = m.SAInfo.append(b)
	b = append32(b, m.Min) // not in network order, although SPIs
	b = append32(b, m.Max)
	return m.Attrs.append(b)
}

func (m *SPIRequest) parse(b []byte) error {
	r, rest, err := head("SPI request", b, saInfoLen+8)
	if err != nil {
		return err
	}
	m.SAInfo.read(&r)
	m.Min, m.Max = r.u32(), r.u32()
	return finish(&r, "SPI request", m.SAInfo.Sel.check(), m.Attrs.parse(rest))
}

// FlushSA removes all SAs of a protocol, 0 those of any; also the notification
// that somebody did.
type FlushSA struct {
	Proto uint8
	Attrs
}

// Append implements Message.
func (m *FlushSA) Append(b []byte) []byte { return m.Attrs.append(append(b, m.Proto, 0, 0, 0)) }

func (m *FlushSA) parse(b []byte) error {
	r, rest, err := head("flush of SAs", b, 1)
	if err != nil {
		return err
	}
	m.Proto = r.u8()
	return finish(&r, "flush of SAs", m.Attrs.parse(rest))
}

// finish gives the first error of a parser.
func finish(r *reader, name string, errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return r.done(name)
}
