package vici

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/engine"
	"iked/internal/secret"
	"iked/sad"
	"iked/spd"
	"iked/vici/wire"
)

// reader reads the keys of a request about static SAs and policies. The first
// fault stays; a key that nothing read is a fault too, because a misspelt one
// would leave an SA without what its writer meant.
type reader struct {
	m    wire.Message
	err  error
	seen []string
}

func (r *reader) fail(key, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: "+format, append([]any{key}, args...)...)
	}
}

func (r *reader) text(key string) string {
	r.seen = append(r.seen, key)
	if b, ok := r.m.Bytes(key); ok && !wire.Printable(b) {
		r.fail(key, "is not printable text")
	}
	return text(r.m, key)
}

// list has the items of a list, or those of a value between commas.
func (r *reader) list(key string) (out []string) {
	r.seen = append(r.seen, key)
	for _, it := range r.m.List(key) {
		out = append(out, string(it))
	}
	if s := text(r.m, key); s != "" {
		out = append(out, strings.Split(s, ",")...)
	}
	return out
}

func (r *reader) end() error {
	for i := range r.m {
		if !slices.Contains(r.seen, r.m[i].Name) {
			slices.Sort(r.seen)
			r.fail(r.m[i].Name, "unknown key; known are %s", strings.Join(slices.Compact(r.seen), ", "))
		}
	}
	return r.err
}

func (r *reader) number(key string, bits int) uint64 {
	s := r.text(key)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 0, bits)
	if err != nil {
		r.fail(key, "%q, expected a number of at most %d bits, decimal or with 0x", s, bits)
	}
	return n
}

func (r *reader) duration(key string) time.Duration {
	s := r.text(key)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		r.fail(key, "%q, expected a time above 0 such as 90s or 8h", s)
	}
	return d
}

func (r *reader) yes(key string) bool {
	switch s := r.text(key); s {
	case "", "no":
	case "yes":
		return true
	default:
		r.fail(key, "%q, expected yes or no", s)
	}
	return false
}

func (r *reader) addr(key string, needed bool) netip.Addr {
	s := r.text(key)
	if s == "" {
		if needed {
			r.fail(key, "is missing, expected an address")
		}
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		r.fail(key, "%q, expected an IPv4 or IPv6 address", s)
	}
	return a.Unmap()
}

// choice is the value of a word; the first one is the default unless needed.
func choice[T any](r *reader, key string, needed bool, words []string, values []T) (v T) {
	s := r.text(key)
	if s == "" && !needed {
		return values[0]
	}
	if i := slices.Index(words, s); i >= 0 {
		return values[i]
	}
	r.fail(key, "%q, expected %s", s, strings.Join(words, " or "))
	return v
}

func (r *reader) selectors(key string) (out []spd.TS) {
	for _, s := range r.list(key) {
		ts, dynamic, err := spd.Parse(s)
		if err == nil && dynamic {
			err = errors.New("dynamic has no meaning here: write the addresses")
		}
		if err != nil {
			r.fail(key, "%w", err)
			return nil
		}
		out = append(out, ts)
	}
	return out
}

func (r *reader) encap(key string) *sad.Encap {
	s := r.text(key)
	if s == "" || s == "no" {
		return nil
	}
	a, b, ok := strings.Cut(s, ":")
	from, err1 := strconv.ParseUint(a, 10, 16)
	to, err2 := strconv.ParseUint(b, 10, 16)
	if !ok || err1 != nil || err2 != nil || from == 0 || to == 0 {
		r.fail(key, "%q, expected SOURCE:DESTINATION ports such as 4500:4500, or no", s)
		return nil
	}
	return &sad.Encap{SrcPort: uint16(from), DstPort: uint16(to)}
}

func (r *reader) key(key string) secret.Bytes {
	r.seen = append(r.seen, key)
	b, _ := r.m.Bytes(key)
	return secret.New(slices.Clone(b))
}

var (
	protoWords = []string{"esp", "ah"}
	protoValue = []suite.Protocol{suite.ProtoESP, suite.ProtoAH}
	dirWords   = []string{"in", "out"}
	dirValue   = []sad.Direction{sad.In, sad.Out}
	modeWords  = []string{"tunnel", "transport", "beet"}
	modeValue  = []spd.Mode{spd.Tunnel, spd.Transport, spd.BEET}
)

// name reads what lists show, and what files of ikectl have as a word.
func (r *reader) name() string {
	s := r.text("name")
	if strings.ContainsAny(s, " =") || len(s) > 64 {
		r.fail("name", "%q, expected at most 64 characters without spaces and =", s)
	}
	return s
}

// staticSA reads an SA that is keyed by hand.
func staticSA(m wire.Message) (*sad.SA, error) {
	r := &reader{m: m}
	sa := &sad.SA{ID: sad.ID{
		Dir: choice(r, "dir", true, dirWords, dirValue), Proto: choice(r, "proto", false, protoWords, protoValue),
		SPI: uint32(r.number("spi", 32)), Dst: r.addr("dst", true),
	}}
	sa.Src = r.addr("src", true)
	sa.Name, sa.ReqID = r.name(), uint32(r.number("reqid", 32))
	sa.Mode = choice(r, "mode", false, modeWords, modeValue)
	sa.Local, sa.Remote = r.selectors("local_ts"), r.selectors("remote_ts")
	sa.ReplayWindow, sa.Encap = uint32(r.number("replay_window", 32)), r.encap("encap")
	sa.TFCPadding = uint32(r.number("tfc_padding", 16))
	sa.Limits = sad.Limits{
		SoftTime: r.duration("soft_time"), HardTime: r.duration("hard_time"),
		SoftBytes: r.number("soft_bytes", 64), HardBytes: r.number("hard_bytes", 64),
		SoftPackets: r.number("soft_packets", 64), HardPackets: r.number("hard_packets", 64),
	}
	if r.yes("one_sender") {
		// RFC 4301, Section 4.1: SPI, destination and source.
		sa.Sender = sa.Src
	}
	r.algorithms(sa)
	sa.EncrKey, sa.IntegKey = r.key("encr_key"), r.key("integ_key")
	if err := r.end(); err != nil {
		return nil, err
	}
	if !m.Has("replay_window") && sa.Dir == sad.In && !sa.Dst.IsMulticast() {
		sa.ReplayWindow = 32
	}
	if sa.Mode == spd.Transport && sa.Local == nil && sa.Remote == nil {
		local, remote := sa.Src, sa.Dst
		if sa.Dir == sad.In {
			local, remote = remote, local
		}
		sa.Local, sa.Remote = []spd.TS{spd.Host(local)}, []spd.TS{spd.Host(remote)}
	}
	if sa.Local == nil || sa.Remote == nil {
		return nil, errors.New("local_ts and remote_ts are missing: they say which packets the SA may carry")
	}
	return sa, nil
}

// algorithms reads one suite, in the words of proposals.
func (r *reader) algorithms(sa *sad.SA) {
	s := r.text("alg")
	if s == "" {
		r.fail("alg", "is missing, expected keywords such as aes256gcm16, or aes256-sha256, or sha256 for AH; esn for extended sequence numbers")
		return
	}
	list, err := suite.ParseProposals(sa.Proto, []string{s})
	if err != nil {
		r.fail("alg", "%w", err)
		return
	}
	if len(list) != 1 {
		r.fail("alg", "%q has %d suites, expected one", s, len(list))
		return
	}
	count := map[suite.TransformType]int{}
	for _, t := range list[0].Transforms {
		count[t.Type]++
		switch t.Type {
		case suite.ENCR:
			sa.Encr = t
		case suite.INTEG:
			sa.Integ = t
		case suite.SN:
			sa.ESN = t.ID != 0
		default:
			r.fail("alg", "%q has a %v, which nobody negotiates here", s, t.Type)
		}
	}
	for typ, n := range count {
		if n > 1 {
			r.fail("alg", "%q has %d transforms of type %v, expected one", s, n, typ)
		}
	}
}

// staticSelector reads which SA is meant.
func staticSelector(r *reader) engine.StaticSelector {
	sel := engine.StaticSelector{
		Dir:   choice(r, "dir", false, append([]string{""}, dirWords...), append([]sad.Direction{0}, dirValue...)),
		Proto: choice(r, "proto", false, append([]string{""}, protoWords...), append([]suite.Protocol{0}, protoValue...)),
		SPI:   uint32(r.number("spi", 32)), Dst: r.addr("dst", false),
	}
	if sel.SPI == 0 {
		r.fail("spi", "is missing, expected the SPI of the SA")
	}
	return sel
}

// staticMove reads the new outside of an SA.
func staticMove(m wire.Message) (engine.StaticSelector, backend.Move, error) {
	r := &reader{m: m}
	sel := staticSelector(r)
	mv := backend.Move{Src: r.addr("new_src", false), Dst: r.addr("new_dst", false), Encap: r.encap("new_encap")}
	return sel, mv, r.end()
}

// staticPolicy reads a policy.
func staticPolicy(m wire.Message) (*spd.Policy, error) {
	r := &reader{m: m}
	p := &spd.Policy{
		Name:   r.name(),
		Action: choice(r, "action", true, []string{"protect", "bypass", "discard"}, []spd.Action{spd.Protect, spd.Bypass, spd.Discard}),
		Local:  r.selectors("local_ts"), Remote: r.selectors("remote_ts"),
		Priority: uint32(r.number("priority", 32)), ReqID: uint32(r.number("reqid", 32)),
		Mode:       choice(r, "mode", false, modeWords, modeValue),
		OuterLocal: r.addr("outer_local", false), OuterRemote: r.addr("outer_remote", false),
		Dirs: choice(r, "dir", false, []string{"both", "out", "in"}, []spd.Dirs{spd.Both, spd.Outbound, spd.Inbound}),
	}
	if choice(r, "proto", false, protoWords, protoValue) == suite.ProtoAH {
		p.Proto = 51
	} else if p.Action == spd.Protect {
		p.Proto = 50
	}
	for _, s := range r.list("bundle") {
		t, err := template(s)
		if err != nil {
			r.fail("bundle", "%w", err)
		}
		p.Bundle = append(p.Bundle, t)
	}
	if p.Action != spd.Protect && (m.Has("reqid") || m.Has("mode") || m.Has("proto") || p.Bundle != nil) {
		r.fail("action", "bypass and discard have no SAs: leave reqid, mode, proto and bundle out")
	}
	if p.Dirs != spd.Both && p.Action == spd.Protect {
		r.fail("dir", "what is protected is protected both ways: leave it out")
	}
	return p, r.end()
}

// template reads one more protection: "ah/transport/0x40000001", with
// "/LOCAL/REMOTE" behind it for a tunnel.
func template(s string) (t spd.Template, err error) {
	w := strings.Split(s, "/")
	if len(w) != 3 && len(w) != 5 {
		return t, fmt.Errorf("%q, expected PROTOCOL/MODE/REQID, and /LOCAL/REMOTE behind it in tunnel or beet mode", s)
	}
	i, j := slices.Index(protoWords, w[0]), slices.Index(modeWords, w[1])
	n, err := strconv.ParseUint(w[2], 0, 32)
	if i < 0 || j < 0 || err != nil {
		return t, fmt.Errorf("%q, expected esp or ah, then tunnel, transport or beet, then a reqid", s)
	}
	t = spd.Template{Proto: []uint8{50, 51}[i], Mode: modeValue[j], ReqID: uint32(n)}
	if (t.Mode == spd.Transport) != (len(w) == 3) {
		return t, fmt.Errorf("%q: outer addresses belong to tunnel and beet mode, and are needed there", s)
	}
	if len(w) == 5 {
		var err1, err2 error
		t.Local, err1 = netip.ParseAddr(w[3])
		t.Remote, err2 = netip.ParseAddr(w[4])
		return t, errors.Join(err1, err2)
	}
	return t, nil
}
