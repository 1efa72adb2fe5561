package wire

// Mapping is struct xfrm_user_mapping: an authentic UDP-encapsulated packet of an
// inbound SA came from another address or port. The kernel changes nothing.
type Mapping struct {
	ID               SAID
	ReqID            uint32
	OldSrc, NewSrc   Address
	OldPort, NewPort uint16
}

const mappingLen = 64

// Append implements Message.
func (m *Mapping) Append(b []byte) []byte {
	b = m.ID.Append(b)
	b = append32(b, m.ReqID)
	b = append(b, m.OldSrc[:]...)
	b = append(b, m.NewSrc[:]...)
	b = be16(b, m.OldPort)
	return be16(b, m.NewPort)
}

func (m *Mapping) parse(b []byte) error {
	r, _, err := head("mapping", b, mappingLen)
	if err != nil {
		return err
	}
	m.ID.read(&r)
	m.ReqID = r.u32()
	m.OldSrc, m.NewSrc = r.address(), r.address()
	m.OldPort, m.NewPort = r.be16(), r.be16()
	return r.done("mapping")
}

// Report is struct xfrm_user_report: an inbound packet of Mobile IPv6 without the
// policy for it.
type Report struct {
	Proto uint8
	Sel   Selector
	Attrs
}

// Append implements Message.
func (m *Report) Append(b []byte) []byte {
	return m.Attrs.append(m.Sel.Append(append(b, m.Proto, 0, 0, 0)))
}

func (m *Report) parse(b []byte) error {
	r, rest, err := head("report", b, 4+SelectorLen)
	if err != nil {
		return err
	}
	m.Proto = r.u8()
	r.skip(3)
	m.Sel.read(&r)
	return finish(&r, "report", m.Sel.check(), m.Attrs.parse(rest))
}
