package wire

// Flags of AE: what is asked for or told, and why.
const (
	AEReplayThreshold uint32 = 1
	AEReplay          uint32 = 2
	AELifetime        uint32 = 4
	AETimerThreshold  uint32 = 8
	AECauseReplay     uint32 = 16
	AECauseTimer      uint32 = 32
	AECausePolicy     uint32 = 64
)

// AE is struct xfrm_aevent_id, NEWAE and GETAE: the counters of an SA, for a
// second system that takes over.
type AE struct {
	ID    SAID
	Src   Address
	Flags uint32
	ReqID uint32
	Attrs
}

const aeLen = 48

// Append implements Message.
func (m *AE) Append(b []byte) []byte {
	b = m.ID.Append(b)
	b = append(b, m.Src[:]...)
	b = append32(b, m.Flags)
	b = append32(b, m.ReqID)
	return m.Attrs.append(b)
}

func (m *AE) parse(b []byte) error {
	r, rest, err := head("counters", b, aeLen)
	if err != nil {
		return err
	}
	m.ID.read(&r)
	m.Src, m.Flags, m.ReqID = r.address(), r.u32(), r.u32()
	return finish(&r, "counters", m.Attrs.parse(rest))
}
