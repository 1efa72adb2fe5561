package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// Report is what a kernel has, found out by trying.
type Report struct {
	// Missing names what is absent, in words: "CONFIG_INET_ESP is not set".
	Missing []string
	// Unusable is empty, or why this kernel can carry nothing.
	Unusable string
	// IfID tells that SAs and policies can be bound to XFRM interfaces.
	IfID bool
	// SADir: SAs have a direction (Linux 6.10). StateMigrate: one SA can be moved
	// (Linux 7.2). Migrate: policies and their SAs can.
	SADir, StateMigrate, Migrate bool
	// SubPolicy and Default: there are sub-policies and default policies.
	SubPolicy, Default bool

	types map[typeKey]string // why not; "": there
	modes map[modeKey]string
	algs  map[algKey]string
	encap map[uint16]string // by family
	comp  map[uint16]string // by family
	esn   string
}

type typeKey struct {
	proto  suite.Protocol
	family uint16
}

type modeKey struct {
	mode         spd.Mode
	inner, outer uint16
}

type algKey struct {
	proto       suite.Protocol
	encr, integ suite.Transform
}

// algorithm is what an SA can be made with.
type algorithm struct {
	algKey
	encrLen, integLen int
}

// algorithmsToTry are each cipher alone, or with HMAC-SHA2-256, and each integrity
// algorithm with AES-CBC and with AH.
func algorithmsToTry() []algorithm {
	var list []algorithm
	add := func(proto suite.Protocol, encr, integ suite.Transform) {
		e, i, err := keyLens(encr, integ, proto)
		if err == nil {
			list = append(list, algorithm{algKey{proto, encr, integ}, e, i})
		}
	}
	sha256 := suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256}
	cbc := suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128}
	for _, id := range []uint16{suite.EncrAESGCM16, suite.EncrAESGCM12, suite.EncrAESGCM8, suite.EncrAESCBC, suite.EncrAESCTR, suite.EncrAESCCM16, suite.EncrAESCCM12,
		suite.EncrAESCCM8, suite.EncrNullAESGMAC, suite.EncrChaCha20Poly1305, suite.Encr3DES, suite.EncrNull} {
		bits := []uint16{128, 192, 256}
		if id == suite.EncrChaCha20Poly1305 || id == suite.Encr3DES || id == suite.EncrNull {
			bits = []uint16{0}
		}
		for _, n := range bits {
			t := suite.Transform{Type: suite.ENCR, ID: id, KeyBits: n}
			if t.AEAD() {
				add(suite.ProtoESP, t, suite.Transform{})
			} else {
				add(suite.ProtoESP, t, sha256)
			}
		}
	}
	for _, id := range []uint16{suite.IntegHMACSHA256, suite.IntegHMACSHA1_96, suite.IntegHMACSHA384, suite.IntegHMACSHA512, suite.IntegHMACMD5_96,
		suite.IntegHMACSHA1_160, suite.IntegAESXCBC96, suite.IntegAESCMAC96, suite.IntegHMACSHA256_96} {
		t := suite.Transform{Type: suite.INTEG, ID: id}
		if id != suite.IntegHMACSHA256 {
			add(suite.ProtoESP, cbc, t)
		}
		add(suite.ProtoAH, suite.Transform{}, t)
	}
	return list
}

var loopback = map[uint16]netip.Addr{wire.Inet: netip.MustParseAddr("127.0.0.1"), wire.Inet6: netip.IPv6Loopback()}

// attempt is an SA that the kernel makes with all its parts and then does not find
// the place for: an update of an SA that does not exist. Nothing remains of it.
func attempt(a algorithm, mode spd.Mode, inner, outer uint16) *wire.SA {
	m := &wire.SA{}
	_ = named(a.proto, a.encr, a.integ, random(a.encrLen), random(a.integLen), &m.Attrs)
	addr := wire.AddressOf(loopback[outer])
	m.ID, m.Src, m.Family = wire.ID{Dst: addr, SPI: 0xfffffffe, Proto: ipProto(a.proto)}, addr, outer
	m.Mode = kernelMode(mode)
	m.Lifetime = wire.Lifetime{SoftBytes: wire.Infinite, HardBytes: wire.Infinite, SoftPackets: wire.Infinite, HardPackets: wire.Infinite}
	if mode != spd.Transport {
		in := loopback[inner]
		m.Sel = wire.Selector{Src: wire.AddressOf(in), Dst: wire.AddressOf(in), SrcLen: uint8(in.BitLen()), DstLen: uint8(in.BitLen()), Family: inner}
	}
	return m
}

// tried turns the answer to an attempt into a reason, "" for none.
func tried(err error) string {
	if err == nil || errors.Is(err, unix.ESRCH) {
		return ""
	}
	return err.Error()
}

// Probe finds out what the kernel of the calling thread's network namespace has.
// Nothing remains of it. The error is that of a system where nothing can be found
// out, such as one without CAP_NET_ADMIN.
func Probe() (Report, error) {
	s, err := newSocket()
	if err != nil {
		return noSocket(err)
	}
	defer s.close()
	return probe(s)
}

func noSocket(err error) (Report, error) {
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return Report{Unusable: "the kernel has no XFRM (CONFIG_XFRM_USER is not set)"}, nil
	}
	return Report{}, err
}

func probe(s *socket) (Report, error) {
	if _, err := s.one(wire.GetSADInfo, 0, &wire.SADInfo{}); err != nil {
		if errors.Is(err, unix.EPERM) {
			return Report{}, fmt.Errorf("%w: it needs root, or CAP_NET_ADMIN", err)
		}
		return Report{}, err
	}
	r := Report{types: map[typeKey]string{}, modes: map[modeKey]string{}, algs: map[algKey]string{}, encap: map[uint16]string{}, IfID: true}
	all := algorithmsToTry()
	r.probeTypes(s, all)
	r.probeAlgorithms(s, all)
	r.probeModes(s)
	r.probeFeatures(s)
	r.probeComp(s)
	r.missing()
	return r, nil
}

// probeTypes tries each protocol in each family with every algorithm until one is
// not refused for itself: the algorithm is looked at before the protocol.
func (r *Report) probeTypes(s *socket, all []algorithm) {
	for _, proto := range []suite.Protocol{suite.ProtoESP, suite.ProtoAH} {
		for _, family := range []uint16{wire.Inet, wire.Inet6} {
			why := "no algorithm of " + proto.String() + " is there"
			for _, a := range all {
				if a.proto != proto {
					continue
				}
				_, err := s.one(wire.UpdSA, wire.FlagReplace, attempt(a, spd.Transport, family, family))
				if why = tried(err); !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.ENOENT) {
					break
				}
			}
			r.types[typeKey{proto, family}] = why
		}
	}
}

// family is one in which a protocol works, 0: none.
func (r *Report) family(proto suite.Protocol) uint16 {
	for _, f := range []uint16{wire.Inet, wire.Inet6} {
		if why, ok := r.types[typeKey{proto, f}]; ok && why == "" {
			return f
		}
	}
	return 0
}

func (r *Report) probeAlgorithms(s *socket, all []algorithm) {
	var reqs []request
	var keys []algKey
	for _, a := range all {
		if f := r.family(a.proto); f != 0 {
			reqs = append(reqs, request{wire.UpdSA, wire.FlagReplace, attempt(a, spd.Transport, f, f)})
			keys = append(keys, a.algKey)
		}
	}
	for i, res := range s.do(reqs) {
		r.algs[keys[i]] = tried(res.err)
	}
}

// anyAlgorithm is one that the kernel has for a protocol.
func (r *Report) anyAlgorithm(proto uint8) (algorithm, bool) {
	for _, a := range algorithmsToTry() {
		if why, ok := r.algs[a.algKey]; ok && why == "" && ipProto(a.proto) == proto {
			return a, true
		}
	}
	return algorithm{}, false
}

func (r *Report) probeModes(s *socket) {
	a, ok := r.anyAlgorithm(ipESP)
	if !ok {
		return
	}
	for _, outer := range []uint16{wire.Inet, wire.Inet6} {
		if r.types[typeKey{suite.ProtoESP, outer}] != "" {
			continue
		}
		for _, mode := range []spd.Mode{spd.Transport, spd.Tunnel, spd.BEET} {
			for _, inner := range []uint16{wire.Inet, wire.Inet6} {
				if mode == spd.Transport && inner != outer {
					continue
				}
				_, err := s.one(wire.UpdSA, wire.FlagReplace, attempt(a, mode, inner, outer))
				r.modes[modeKey{mode, inner, outer}] = tried(err)
			}
		}
		m := attempt(a, spd.Transport, outer, outer)
		m.Encap = &wire.Encap{Type: wire.EncapUDP, SrcPort: 4500, DstPort: 4500}
		_, err := s.one(wire.UpdSA, wire.FlagReplace, m)
		r.encap[outer] = tried(err)
	}
	f := r.family(suite.ProtoESP)
	m := attempt(a, spd.Transport, f, f)
	m.Flags |= wire.FlagESN
	m.ReplayESN = &wire.ReplayESN{Window: 64, Bitmap: make([]uint32, 2)}
	_, err := s.one(wire.UpdSA, wire.FlagReplace, m)
	r.esn = tried(err)
}

func (r *Report) probeFeatures(s *socket) {
	// A kernel that knows directions checks their range before all else.
	m := &wire.SA{Attrs: wire.Attrs{SADir: ptr(uint8(9))}}
	m.Family, m.Mode, m.ID.Proto = wire.Inet, 99, ipESP
	_, err := s.one(wire.UpdSA, wire.FlagReplace, m)
	r.SADir = errors.Is(err, unix.ERANGE)

	_, err = s.one(wire.MigrateMsg, 0, &wire.Migrate{})
	r.Migrate = !errors.Is(err, unix.ENOPROTOOPT)

	lo := wire.AddressOf(loopback[wire.Inet])
	_, err = s.one(wire.MigrateState, 0, &wire.StateMigrate{ID: wire.SAID{Dst: lo, SPI: 0xfffffffe, Family: wire.Inet, Proto: ipESP}, NewDst: lo, NewSrc: lo, NewFamily: wire.Inet})
	r.StateMigrate = errors.Is(err, unix.ESRCH)

	k := policyKey{sel: wire.Selector{Family: wire.Inet, Src: lo, Dst: lo, SrcLen: 32, DstLen: 32, Proto: 255}, dir: wire.DirOut}
	g := k.byID()
	g.PolicyType = ptr(uint8(1))
	_, err = s.one(wire.GetPolicy, 0, g)
	r.SubPolicy = gone(err)

	_, err = s.one(wire.GetDefault, 0, &wire.Default{})
	r.Default = err == nil
}

// missing says in words what is absent.
func (r *Report) missing() {
	for _, x := range []struct {
		key    typeKey
		option string
	}{
		{typeKey{suite.ProtoESP, wire.Inet}, "CONFIG_INET_ESP"}, {typeKey{suite.ProtoESP, wire.Inet6}, "CONFIG_INET6_ESP"},
		{typeKey{suite.ProtoAH, wire.Inet}, "CONFIG_INET_AH"}, {typeKey{suite.ProtoAH, wire.Inet6}, "CONFIG_INET6_AH"},
	} {
		if r.types[x.key] != "" {
			r.Missing = append(r.Missing, x.option+" is not set")
		}
	}
	if r.family(suite.ProtoESP) == 0 && r.family(suite.ProtoAH) == 0 {
		r.Unusable = "the kernel has neither ESP nor AH (" + strings.Join(r.Missing, ", ") + ", and no module has it)"
		return
	}
	if !r.Migrate {
		r.Missing = append(r.Missing, "CONFIG_XFRM_MIGRATE is not set")
	}
	if !r.SubPolicy {
		r.Missing = append(r.Missing, "CONFIG_XFRM_SUB_POLICY is not set")
	}
	var lacks []string
	for _, a := range algorithmsToTry() {
		if why, ok := r.algs[a.algKey]; ok && why != "" {
			name := a.integ.Name()
			if a.proto == suite.ProtoESP && (a.encr.AEAD() || a.integ.ID == suite.IntegHMACSHA256) {
				name = a.encr.Name()
			}
			if !slices.Contains(lacks, name) {
				lacks = append(lacks, name)
			}
		}
	}
	if len(lacks) > 0 {
		r.Missing = append(r.Missing, "algorithms "+strings.Join(lacks, ", "))
	}
	for _, x := range []struct{ what, why string }{
		{"BEET mode", r.modes[modeKey{spd.BEET, wire.Inet, wire.Inet}]}, {"extended sequence numbers", r.esn},
		{"compression over IPv4 (CONFIG_INET_IPCOMP)", r.comp[wire.Inet]}, {"compression over IPv6 (CONFIG_INET6_IPCOMP)", r.comp[wire.Inet6]},
		{"UDP encapsulation over IPv4", r.encap[wire.Inet]}, {"UDP encapsulation over IPv6", r.encap[wire.Inet6]},
	} {
		if x.why != "" {
			r.Missing = append(r.Missing, x.what)
		}
	}
}

// String is one line for the status.
func (r *Report) String() string {
	if r.Unusable != "" {
		return r.Unusable
	}
	var have []string
	for _, p := range []suite.Protocol{suite.ProtoESP, suite.ProtoAH} {
		v4, v6 := r.types[typeKey{p, wire.Inet}] == "", r.types[typeKey{p, wire.Inet6}] == ""
		switch {
		case v4 && v6:
			have = append(have, p.String())
		case v4:
			have = append(have, p.String()+" over IPv4")
		case v6:
			have = append(have, p.String()+" over IPv6")
		}
	}
	s := "XFRM with " + strings.Join(have, " and ")
	if r.SADir {
		s += ", SAs with directions"
	}
	if r.StateMigrate {
		s += ", SAs that move in place"
	}
	if len(r.Missing) > 0 {
		s += "; missing: " + strings.Join(r.Missing, ", ")
	}
	return s
}

// Supports tells whether an SA with these properties can be carried, and if not,
// why. integ is the zero Transform for a combined-mode cipher.
func (r *Report) Supports(proto suite.Protocol, mode spd.Mode, encr, integ suite.Transform, esn bool) (ok bool, reason string) {
	if r.Unusable != "" {
		return false, r.Unusable
	}
	if proto == suite.ProtoIPComp {
		switch {
		case mode == spd.BEET:
			return false, "compression is for tunnel and transport mode"
		case r.comp[wire.Inet] != "" && r.comp[wire.Inet6] != "":
			return false, "the kernel has no IPComp (CONFIG_INET_IPCOMP): " + r.comp[wire.Inet]
		}
		return true, ""
	}
	if proto != suite.ProtoESP && proto != suite.ProtoAH {
		return false, fmt.Sprintf("the kernel carries ESP and AH, not %v", proto)
	}
	if r.family(proto) == 0 {
		return false, fmt.Sprintf("the kernel has no %v: %s", proto, r.types[typeKey{proto, wire.Inet}])
	}
	if mode == spd.BEET && proto == suite.ProtoAH {
		return false, "BEET mode is for ESP alone"
	}
	if proto == suite.ProtoAH && encr != (suite.Transform{}) {
		return false, fmt.Sprintf("AH has no encryption, found %v", encr)
	}
	if _, _, err := keyLens(encr, integ, proto); err != nil {
		return false, err.Error()
	}
	if why := r.algorithm(proto, encr, integ); why != "" {
		return false, why
	}
	f := r.family(proto)
	if why := r.modes[modeKey{mode, f, f}]; why != "" {
		return false, fmt.Sprintf("mode: %s", why)
	}
	if esn && r.esn != "" {
		return false, "extended sequence numbers: " + r.esn
	}
	return true, ""
}

// algorithm looks at both algorithms of an SA, which were tried in other pairs.
func (r *Report) algorithm(proto suite.Protocol, encr, integ suite.Transform) string {
	sha256 := suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256}
	cbc := suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128}
	none := suite.Transform{}
	if integ.ID == suite.IntegNone {
		integ = none
	}
	if encr.ID == suite.EncrChaCha20Poly1305 {
		encr.KeyBits = 0
	}
	var keys []algKey
	switch {
	case proto == suite.ProtoAH:
		keys = []algKey{{proto, none, integ}}
	case integ == none:
		keys = []algKey{{proto, encr, none}}
	default:
		keys = []algKey{{proto, encr, sha256}, {proto, cbc, integ}}
	}
	for _, k := range keys {
		why, ok := r.algs[k]
		if !ok {
			return fmt.Sprintf("%v with %v is not known to the kernel backend", encr, integ)
		}
		if why != "" {
			return fmt.Sprintf("%v with %v: %s", k.encr, k.integ, why)
		}
	}
	return ""
}

// carries is Supports for an SA, with the families of its addresses.
func (r *Report) carries(sa *sad.SA) (ok bool, reason string) {
	if ok, why := r.Supports(sa.Proto, sa.Mode, sa.Encr, sa.Integ, sa.ESN); !ok {
		return false, why
	}
	if ok, why := r.compresses(sa); !ok {
		return false, why
	}
	outer := wire.FamilyOf(sa.Dst)
	if why := r.types[typeKey{sa.Proto, outer}]; why != "" {
		return false, fmt.Sprintf("%v to %v: %s", sa.Proto, sa.Dst, why)
	}
	if sa.Encap != nil && r.encap[outer] != "" {
		return false, "UDP encapsulation: " + r.encap[outer]
	}
	for _, ts := range sa.Local {
		if why := r.modes[modeKey{sa.Mode, wire.FamilyOf(ts.From), outer}]; why != "" {
			return false, fmt.Sprintf("packets of %v in %v: %s", ts.From, sa.Dst, why)
		}
	}
	return true, ""
}
