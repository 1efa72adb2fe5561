package wire

// SADInfo is NEWSADINFO and GETSADINFO: how many SAs there are, and the size of
// the table of them.
type SADInfo struct {
	Flags            uint32 // ignored by the kernel
	Count            *uint32
	Buckets, MaxBkts uint32
	HasBuckets       bool
}

// Append implements Message.
func (m *SADInfo) Append(b []byte) []byte {
	b = append32(b, m.Flags)
	if m.Count != nil {
		b = append32(attrHead(b, 1, 4), *m.Count)
	}
	if m.HasBuckets {
		b = append32(append32(attrHead(b, 2, 8), m.Buckets), m.MaxBkts)
	}
	return b
}

func (m *SADInfo) parse(b []byte) error {
	r, rest, err := head("SAD summary", b, 4)
	if err != nil {
		return err
	}
	m.Flags = r.u32()
	return eachAttr(rest, func(t uint16, v []byte) error {
		r := reader{b: v}
		switch {
		case t == 1 && len(v) == 4:
			n := r.u32()
			m.Count = &n
		case t == 2 && len(v) == 8:
			m.Buckets, m.MaxBkts, m.HasBuckets = r.u32(), r.u32(), true
		case t == 1 || t == 2:
			return malformed("attribute %d of the SAD summary has %d octets", t, len(v))
		}
		return nil
	})
}

// SPDCounts is struct xfrmu_spdinfo; the last three are those of sockets.
type SPDCounts struct{ In, Out, Fwd, SockIn, SockOut, SockFwd uint32 }

// HashThreshold is struct xfrmu_spdhthresh: prefixes at least as long are hashed.
type HashThreshold struct{ Local, Remote uint8 }

// SPDInfo is NEWSPDINFO and GETSPDINFO: how many policies there are, and how they
// are hashed. NEWSPDINFO as a request sets the thresholds.
type SPDInfo struct {
	Flags            uint32
	Counts           *SPDCounts
	Buckets, MaxBkts uint32
	HasBuckets       bool
	IPv4, IPv6       *HashThreshold
}

// Append implements Message.
func (m *SPDInfo) Append(b []byte) []byte {
	b = append32(b, m.Flags)
	if c := m.Counts; c != nil {
		b = attrHead(b, 1, 24)
		for _, v := range [...]uint32{c.In, c.Out, c.Fwd, c.SockIn, c.SockOut, c.SockFwd} {
			b = append32(b, v)
		}
	}
	if m.HasBuckets {
		b = append32(append32(attrHead(b, 2, 8), m.Buckets), m.MaxBkts)
	}
	for i, h := range [...]*HashThreshold{m.IPv4, m.IPv6} {
		if h != nil {
			b = append(attrHead(b, uint16(3+i), 2), h.Local, h.Remote, 0, 0)
		}
	}
	return b
}

func (m *SPDInfo) parse(b []byte) error {
	r, rest, err := head("SPD summary", b, 4)
	if err != nil {
		return err
	}
	m.Flags = r.u32()
	return eachAttr(rest, func(t uint16, v []byte) error {
		r := reader{b: v}
		switch {
		case t == 1 && len(v) == 24:
			m.Counts = &SPDCounts{r.u32(), r.u32(), r.u32(), r.u32(), r.u32(), r.u32()}
		case t == 2 && len(v) == 8:
			m.Buckets, m.MaxBkts, m.HasBuckets = r.u32(), r.u32(), true
		case t == 3 && len(v) == 2:
			m.IPv4 = &HashThreshold{r.u8(), r.u8()}
		case t == 4 && len(v) == 2:
			m.IPv6 = &HashThreshold{r.u8(), r.u8()}
		case t >= 1 && t <= 4:
			return malformed("attribute %d of the SPD summary has %d octets", t, len(v))
		}
		return nil
	})
}
