package wire

// Expire is struct xfrm_user_expire: a lifetime of an SA ended. After a hard one
// the SA is gone. An SA that was only reserved or asked for expires too.
type Expire struct {
	SAInfo
	Hard bool
	Attrs
}

// Append implements Message.
func (m *Expire) Append(b []byte) []byte {
	return m.Attrs.append(pad(append(m.SAInfo.append(b), flag(m.Hard)), 7))
}

func (m *Expire) parse(b []byte) error {
	r, rest, err := head("expire", b, saInfoLen+8)
	if err != nil {
		return err
	}
	m.SAInfo.read(&r)
	m.Hard = r.u8() != 0
	r.skip(7)
	return finish(&r, "expire", m.SAInfo.Sel.check(), m.Attrs.parse(rest))
}

// PolicyExpire is struct xfrm_user_polexpire.
type PolicyExpire struct {
	PolicyInfo
	Hard bool
	Attrs
}

// Append implements Message.
func (m *PolicyExpire) Append(b []byte) []byte {
	return m.Attrs.append(pad(append(m.PolicyInfo.append(b), flag(m.Hard)), 7))
}

func (m *PolicyExpire) parse(b []byte) error {
	r, rest, err := head("expire of a policy", b, policyInfoLen+8)
	if err != nil {
		return err
	}
	m.PolicyInfo.read(&r)
	m.Hard = r.u8() != 0
	r.skip(7)
	return finish(&r, "expire of a policy", m.PolicyInfo.Sel.check(), m.Attrs.parse(rest))
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
