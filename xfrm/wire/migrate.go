package wire

// Migration is struct xfrm_user_migrate: SAs with the old addresses get the new
// ones.
type Migration struct {
	OldDst, OldSrc, NewDst, NewSrc Address
	Proto, Mode                    uint8
	ReqID                          uint32
	OldFamily, NewFamily           uint16
}

const (
	migrationLen  = 76
	maxMigrations = 6 // XFRM_MAX_DEPTH
)

func (m *Migration) append(b []byte) []byte {
	for _, a := range [...]*Address{&m.OldDst, &m.OldSrc, &m.NewDst, &m.NewSrc} {
		b = append(b, a[:]...)
	}
	b = append(b, m.Proto, m.Mode, 0, 0)
	b = append32(b, m.ReqID)
	b = append16(b, m.OldFamily)
	return append16(b, m.NewFamily)
}

func (m *Migration) read(r *reader) {
	for _, a := range [...]*Address{&m.OldDst, &m.OldSrc, &m.NewDst, &m.NewSrc} {
		*a = r.address()
	}
	m.Proto, m.Mode = r.u8(), r.u8()
	r.skip(2)
	m.ReqID, m.OldFamily, m.NewFamily = r.u32(), r.u16(), r.u16()
}

// KMAddress is struct xfrm_user_kmaddress: the addresses that key exchange uses
// from now on.
type KMAddress struct {
	Local, Remote Address
	Family        uint16
}

const kmAddressLen = 40

func (k *KMAddress) append(b []byte) []byte {
	b = append(b, k.Local[:]...)
	b = append(b, k.Remote[:]...)
	b = append32(b, 0)
	b = append16(b, k.Family)
	return pad(b, 2)
}

func (k *KMAddress) read(r *reader) {
	k.Local, k.Remote = r.address(), r.address()
	r.skip(4)
	k.Family = r.u16()
	r.skip(2)
}

// Migrate is MIGRATE: the templates of one policy and the SAs that serve them move.
// Attrs.Migrate says from where to where.
type Migrate struct {
	PolicyID
	Attrs
}

// Append implements Message.
func (m *Migrate) Append(b []byte) []byte { return m.Attrs.append(m.PolicyID.append(b)) }

func (m *Migrate) parse(b []byte) error {
	r, rest, err := head("migrate", b, policyIDLen)
	if err != nil {
		return err
	}
	m.PolicyID.read(&r)
	return finish(&r, "migrate", m.PolicyID.Sel.check(), m.Attrs.parse(rest))
}

// Flags of StateMigrate.
const (
	StateMigrateClearOffload uint32 = 1
	StateMigrateHostSelector uint32 = 2
)

// StateMigrate is struct xfrm_user_migrate_state, MIGRATE_STATE of Linux 7.2: one SA
// moves, whatever the policies.
type StateMigrate struct {
	ID             SAID
	NewDst, NewSrc Address
	OldMark        Mark
	NewSel         Selector
	NewReqID       uint32
	Flags          uint32
	NewFamily      uint16
	Attrs
}

const stateMigrateLen = SAIDLen + 32 + 8 + SelectorLen + 12

// Append implements Message.
func (m *StateMigrate) Append(b []byte) []byte {
	b = m.ID.Append(b)
	b = append(b, m.NewDst[:]...)
	b = append(b, m.NewSrc[:]...)
	b = m.OldMark.append(b)
	b = m.NewSel.Append(b)
	b = append32(b, m.NewReqID)
	b = append32(b, m.Flags)
	b = append16(b, m.NewFamily)
	return m.Attrs.append(pad(b, 2))
}

func (m *StateMigrate) parse(b []byte) error {
	r, rest, err := head("migration of an SA", b, stateMigrateLen)
	if err != nil {
		return err
	}
	m.ID.read(&r)
	m.NewDst, m.NewSrc = r.address(), r.address()
	m.OldMark.read(&r)
	m.NewSel.read(&r)
	m.NewReqID, m.Flags, m.NewFamily = r.u32(), r.u32(), r.u16()
	r.skip(2)
	return finish(&r, "migration of an SA", m.NewSel.check(), m.Attrs.parse(rest))
}
