package wire

// Acquire is struct xfrm_user_acquire: a packet met a policy that no SA serves.
// Sel is the flow of that packet, Policy the whole policy. Seq goes into the SA that
// answers.
type Acquire struct {
	ID                           ID
	Src                          Address
	Sel                          Selector
	Policy                       PolicyInfo
	AuthAlgs, EncrAlgs, CompAlgs uint32
	Seq                          uint32
	Attrs
}

const acquireLen = 280

// Append implements Message.
func (m *Acquire) Append(b []byte) []byte {
	b = m.ID.append(b)
	b = append(b, m.Src[:]...)
	b = m.Sel.Append(b)
	b = m.Policy.append(b)
	for _, v := range [...]uint32{m.AuthAlgs, m.EncrAlgs, m.CompAlgs, m.Seq} {
		b = append32(b, v)
	}
	return m.Attrs.append(b)
}

func (m *Acquire) parse(b []byte) error {
	r, rest, err := head("acquire", b, acquireLen)
	if err != nil {
		return err
	}
	m.ID.read(&r)
	m.Src = r.address()
	m.Sel.read(&r)
	m.Policy.read(&r)
	m.AuthAlgs, m.EncrAlgs, m.CompAlgs, m.Seq = r.u32(), r.u32(), r.u32(), r.u32()
	return finish(&r, "acquire", m.Sel.check(), m.Policy.Sel.check(), m.Attrs.parse(rest))
}

// Asked is the template that no SA was found for, nil: the message has none of its
// protocol.
func (m *Acquire) Asked() *Template {
	for i := range m.Templates {
		if m.Templates[i].ID.Proto == m.ID.Proto {
			return &m.Templates[i]
		}
	}
	return nil
}
