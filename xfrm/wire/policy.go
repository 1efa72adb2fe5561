package wire

// Directions of a policy.
const (
	DirIn  uint8 = 0
	DirOut uint8 = 1
	DirFwd uint8 = 2
)

// Actions and flags of a policy.
const (
	Allow uint8 = 0
	Block uint8 = 1

	PolicyLocalOK    uint8 = 1
	PolicyICMP       uint8 = 2
	PolicyCPUAcquire uint8 = 4
)

// Template is struct xfrm_user_tmpl: one SA that a policy asks for.
type Template struct {
	ID       ID     // the SPI may be 0: any
	Family   uint16 // of the outer addresses
	Src      Address
	ReqID    uint32
	Mode     uint8
	Share    uint8
	Optional uint8
	// Which algorithms may be: all bits, the kernel knows no better.
	AuthAlgs, EncrAlgs, CompAlgs uint32
}

const (
	templateLen  = 64
	maxTemplates = 6 // XFRM_MAX_DEPTH
)

func (t *Template) append(b []byte) []byte {
	b = t.ID.append(b)
	b = append16(b, t.Family)
	b = pad(b, 2)
	b = append(b, t.Src[:]...)
	b = append32(b, t.ReqID)
	b = append(b, t.Mode, t.Share, t.Optional, 0)
	b = append32(b, t.AuthAlgs)
	b = append32(b, t.EncrAlgs)
	return append32(b, t.CompAlgs)
}

func (t *Template) read(r *reader) {
	t.ID.read(r)
	t.Family = r.u16()
	r.skip(2)
	t.Src, t.ReqID = r.address(), r.u32()
	t.Mode, t.Share, t.Optional = r.u8(), r.u8(), r.u8()
	r.skip(1)
	t.AuthAlgs, t.EncrAlgs, t.CompAlgs = r.u32(), r.u32(), r.u32()
}

// PolicyInfo is struct xfrm_userpolicy_info.
type PolicyInfo struct {
	Sel      Selector
	Lifetime Lifetime
	Used     Used
	Priority uint32
	Index    uint32 // the kernel's; its lowest three bits are the direction
	Dir      uint8
	Action   uint8
	Flags    uint8
	Share    uint8
}

const policyInfoLen = 168

func (p *PolicyInfo) append(b []byte) []byte {
	b = p.Sel.Append(b)
	b = p.Lifetime.append(b)
	b = p.Used.append(b)
	b = append32(b, p.Priority)
	b = append32(b, p.Index)
	return pad(append(b, p.Dir, p.Action, p.Flags, p.Share), 4)
}

func (p *PolicyInfo) read(r *reader) {
	p.Sel.read(r)
	p.Lifetime.read(r)
	p.Used.read(r)
	p.Priority, p.Index = r.u32(), r.u32()
	p.Dir, p.Action, p.Flags, p.Share = r.u8(), r.u8(), r.u8(), r.u8()
	r.skip(4)
}

// PolicyID is struct xfrm_userpolicy_id: by index, or by selector when it is 0.
type PolicyID struct {
	Sel   Selector
	Index uint32
	Dir   uint8
}

const policyIDLen = 64

func (p *PolicyID) append(b []byte) []byte {
	b = p.Sel.Append(b)
	b = append32(b, p.Index)
	return append(b, p.Dir, 0, 0, 0)
}

func (p *PolicyID) read(r *reader) {
	p.Sel.read(r)
	p.Index, p.Dir = r.u32(), r.u8()
	r.skip(3)
}

// Policy is NEWPOLICY and UPDPOLICY: a whole policy.
type Policy struct {
	PolicyInfo
	Attrs
}

// Append implements Message.
func (m *Policy) Append(b []byte) []byte { return m.Attrs.append(m.PolicyInfo.append(b)) }

func (m *Policy) parse(b []byte) error {
	r, rest, err := head("policy", b, policyInfoLen)
	if err != nil {
		return err
	}
	m.PolicyInfo.read(&r)
	return finish(&r, "policy", m.PolicyInfo.Sel.check(), m.Attrs.parse(rest))
}

// PolicyByID is DELPOLICY and GETPOLICY. A DELPOLICY of the kernel that answers
// a removal by index has the whole policy in Attrs.Policy.
type PolicyByID struct {
	PolicyID
	Attrs
}

// Append implements Message.
func (m *PolicyByID) Append(b []byte) []byte { return m.Attrs.append(m.PolicyID.append(b)) }

func (m *PolicyByID) parse(b []byte) error {
	r, rest, err := head("policy identity", b, policyIDLen)
	if err != nil {
		return err
	}
	m.PolicyID.read(&r)
	return finish(&r, "policy identity", m.PolicyID.Sel.check(), m.Attrs.parse(rest))
}

// Dump asks for all SAs or policies, filtered by attributes. FLUSHPOLICY looks the
// same.
type Dump struct{ Attrs }

// Append implements Message.
func (m *Dump) Append(b []byte) []byte { return m.Attrs.append(b) }

func (m *Dump) parse(b []byte) error { return m.Attrs.parse(b) }

// Verdicts of Default.
const (
	DefaultUnspec uint8 = 0
	DefaultBlock  uint8 = 1
	DefaultAccept uint8 = 2
)

// Default is SETDEFAULT and GETDEFAULT: what is done with packets that match no
// policy.
type Default struct{ In, Fwd, Out uint8 }

// Append implements Message.
func (m *Default) Append(b []byte) []byte { return append(b, m.In, m.Fwd, m.Out) }

func (m *Default) parse(b []byte) error {
	r, _, err := head("default policy", b, 3)
	if err != nil {
		return err
	}
	m.In, m.Fwd, m.Out = r.u8(), r.u8(), r.u8()
	if max(m.In, m.Fwd, m.Out) > DefaultAccept {
		return malformed("default policies %d, %d and %d, expected at most %d", m.In, m.Fwd, m.Out, DefaultAccept)
	}
	return nil
}
