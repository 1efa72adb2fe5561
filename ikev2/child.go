package ikev2

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// childBook is what the state machine keeps of a CHILD_SA for itself.
type childBook struct {
	reserved    bool // the inbound SPI is reserved and no SA uses it
	inUp, outUp bool // asked to be in the backend
	announced   bool // ChildUp or ChildReplaced told of it
	silent      bool // redundant or refused: its end is not told
	deleteSent  bool
	// successor took or will take its place; rival is the lowest nonce of the
	// exchange when the peer made it.
	successor *Child
	rival     []byte
	own       *createChild // our rekeying of it in progress
	peerGone  bool         // the peer deleted it meanwhile

	inactiveAt, fadeAt time.Time
}

// fadeTime is how long a replaced CHILD_SA still receives what was on its way.
const fadeTime = 5 * time.Second

// maxChildren bounds the CHILD_SAs of one IKE SA.
const maxChildren = 1024

func (sa *SA) childByInbound(spi uint32) *Child {
	for _, c := range sa.children {
		if c.SPIIn == spi {
			return c
		}
	}
	return nil
}

// childByOutbound finds a CHILD_SA by the peer's inbound SPI.
func (sa *SA) childByOutbound(proto suite.Protocol, spi uint32) *Child {
	for _, c := range sa.children {
		if c.Proto == proto && c.SPIOut == spi {
			return c
		}
	}
	return nil
}

// addresses that stand for dynamic selectors: the virtual ones, or the host's.
func dynamic(vips []netip.Prefix, host netip.Addr) []netip.Addr {
	if len(vips) == 0 {
		return []netip.Addr{host}
	}
	var as []netip.Addr
	for _, p := range vips {
		as = append(as, p.Addr())
	}
	return as
}

// resolve puts addresses for dynamic selectors.
func resolve(list []Selector, addrs []netip.Addr) []spd.TS {
	ts := make([]spd.TS, 0, len(list))
	for _, s := range list {
		t := s.TS
		if s.Dynamic {
			t.From, t.To = netip.Addr{}, netip.Addr{}
			if t.PortFrom == 0 && t.PortTo == 0 {
				t.PortTo = 65535
			}
		}
		ts = append(ts, t)
	}
	return spd.Resolve(ts, addrs...)
}

func (sa *SA) localTS(c *ChildConfig) []spd.TS {
	return resolve(c.Local, dynamic(sa.vipLocal, sa.local.Addr()))
}

// A peer's own address is the one that it began with: it cannot claim another by
// sending from there, because nothing shows that it receives there.
func (sa *SA) remoteTS(c *ChildConfig) []spd.TS {
	return resolve(c.Remote, dynamic(sa.vipRemote, sa.host))
}

func toWire(ts []spd.TS, responder bool) *message.TrafficSelectors {
	p := &message.TrafficSelectors{Responder: responder}
	for _, t := range ts {
		w := message.TS{Type: message.TSIPv6, Proto: t.Proto, StartPort: t.PortFrom, EndPort: t.PortTo, Start: t.From, End: t.To}
		if t.Is4() {
			w.Type = message.TSIPv4
		}
		p.TS = append(p.TS, w)
	}
	return p
}

func fromWire(p *message.TrafficSelectors) []spd.TS {
	ts := make([]spd.TS, 0, len(p.TS))
	for _, w := range p.TS {
		t := spd.TS{From: w.Start, To: w.End, Proto: w.Proto, PortFrom: w.StartPort, PortTo: w.EndPort}
		// An IPv4-mapped range of type IPv6 is no range of this product.
		if t.Check() == nil {
			ts = append(ts, t)
		}
	}
	return ts
}

// modeNotify asks for a mode other than tunnel (RFC 7296, Section 1.3.1).
func modeNotify(m spd.Mode) message.NotifyType {
	switch m {
	case spd.Transport:
		return message.UseTransportMode
	case spd.BEET:
		return message.UseBEETMode
	}
	return message.NoNotify
}

// withoutKE leaves out key exchange methods: IKE_AUTH does none (RFC 7296,
// Section 1.2).
func withoutKE(ps []suite.Proposal) []suite.Proposal {
	out := make([]suite.Proposal, 0, len(ps))
	for _, p := range ps {
		q := suite.Proposal{Protocol: p.Protocol}
		for _, t := range p.Transforms {
			if t.Type != suite.KE {
				q.Transforms = append(q.Transforms, t)
			}
		}
		out = append(out, q)
	}
	return out
}

// newChild makes the record of a negotiated pair, with its keys.
func (sa *SA) newChild(c *Child, chosen suite.Proposal, gir secret.Bytes, ni, nr []byte) error {
	c.Proto = chosen.Protocol
	c.Encr, _ = chosen.First(suite.ENCR)
	c.Integ, _ = chosen.First(suite.INTEG)
	c.KE, _ = chosen.First(suite.KE)
	c.ESN = chosen.ESN()
	c.LocalAddr, c.RemoteAddr = sa.local, sa.remote
	c.Encap = sa.nat.any()
	if err := sa.childKeys(c, gir, ni, nr); err != nil {
		return err
	}
	if c.Config.SHA256_96 && c.Integ.ID == suite.IntegHMACSHA256 {
		c.Integ.ID = suite.IntegHMACSHA256_96
	}
	c.State = ChildInstalling
	sa.children = append(sa.children, c)
	return nil
}

// installChild asks the backend for directions of a child.
func (sa *SA) installChild(x *flow, c *Child, in, out bool, then func(time.Time, error)) {
	c.inUp, c.outUp = c.inUp || in, c.outUp || out
	if in {
		c.reserved = false
	}
	x.ask(InstallChild{Child: c, In: in, Out: out}, func(now time.Time, r Reply) {
		d, _ := r.(DoneReply)
		if d.Err != nil {
			// The backend left nothing of it; the reservation of the SPI stands.
			c.inUp, c.outUp, c.reserved = false, false, in
		}
		then(now, d.Err)
	})
}

// removeChild takes directions out of the backend, as far as they are there.
func (sa *SA) removeChild(c *Child, in, out bool) {
	if c.reserved && in {
		c.reserved = false
		sa.tell(FreeSPI{Proto: c.Proto, Local: c.LocalAddr.Addr(), SPI: c.SPIIn})
	}
	in, out = in && c.inUp, out && c.outUp
	if in || out {
		c.inUp, c.outUp = c.inUp && !in, c.outUp && !out
		sa.tell(RemoveChild{Child: c, In: in, Out: out})
	}
}

// unlist takes a child off the list.
func (sa *SA) unlist(c *Child) {
	if i := slices.Index(sa.children, c); i >= 0 {
		sa.children = slices.Delete(sa.children, i, i+1)
	}
}

// childUp tells of a new CHILD_SA.
func (sa *SA) childUp(now time.Time, c *Child) {
	sa.childInstalled(now, c)
	c.announced = true
	sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} established with SPIs %08x_i %08x_o and TS %s === %s",
		c.Config.Name, c.UniqueID, c.SPIIn, c.SPIOut, selectors(c.Local), selectors(c.Remote))
	sa.event(ChildUp{Child: c})
}

// childInstalled starts its life.
func (sa *SA) childInstalled(now time.Time, c *Child) {
	c.State = ChildInstalled
	c.Installed = now
	t := c.Config.Time
	if t.Rekey > 0 {
		c.RekeyAt = now.Add(max(t.Rekey-sa.random(t.Jitter), time.Second))
	}
	if t.Hard > 0 {
		c.ExpireAt = now.Add(t.Hard)
	}
	if c.Config.Inactivity > 0 {
		c.inactiveAt = now.Add(c.Config.Inactivity)
	}
}

// childReplaced tells that a rekeying is done.
func (sa *SA) childReplaced(now time.Time, old, new *Child) {
	if new.announced {
		return
	}
	if !old.announced {
		// It is rekeyed already, before the end of what it replaced was seen.
		for _, c := range sa.children {
			if c.successor == old {
				sa.childReplaced(now, c, old)
				break
			}
		}
	}
	new.announced = true
	sa.count("child-rekey", "")
	sa.logChild(now, new.Config, false, "CHILD_SA %s{%d} rekeyed: now {%d} with SPIs %08x_i %08x_o and TS %s === %s",
		new.Config.Name, old.UniqueID, new.UniqueID, new.SPIIn, new.SPIOut, selectors(new.Local), selectors(new.Remote))
	sa.event(ChildReplaced{Old: old, New: new})
}

// sendOn installs the outbound half of a child that waited for the end of the
// one it replaces (RFC 7296, Section 2.8).
func (sa *SA) sendOn(now time.Time, c *Child) {
	if c.outUp || c.State == ChildDeleted {
		return
	}
	x := &flow{sa: sa}
	sa.installChild(x, c, false, true, func(now time.Time, err error) {
		if err == nil {
			return
		}
		sa.failed(now, c.Config, sa.failure(now, trace.StageInstall, fmt.Sprintf("the outbound SA of %s cannot be installed: %v", c.Config.Name, err), "see the kernel's or the datapath's message"))
		sa.queueDeleteChild(now, c, true)
	})
}

// dropChild ends a CHILD_SA that both sides know to be over.
func (sa *SA) dropChild(now time.Time, c *Child, peer bool) {
	sa.unlist(c)
	c.State = ChildDeleted
	switch s := c.successor; {
	case s != nil && s.State != ChildDeleted:
		sa.sendOn(now, s)
		sa.childReplaced(now, c, s)
		sa.fade(now, c)
	case s != nil && s.announced:
		// What replaced it is gone already, too.
		sa.fade(now, c)
	case c.own != nil:
		// Our rekeying of it is on its way and decides what it was.
		c.peerGone = true
		sa.removeChild(c, true, true)
	default:
		sa.removeChild(c, true, true)
		sa.childDown(c, peer)
	}
}

func (sa *SA) childDown(c *Child, peer bool) {
	if c.silent || !c.announced {
		return
	}
	sa.event(ChildDown{Child: c, Peer: peer})
}

// fade keeps the inbound half for what is still on the way.
func (sa *SA) fade(now time.Time, c *Child) {
	sa.removeChild(c, false, true)
	if !c.inUp {
		sa.removeChild(c, true, false)
		return
	}
	c.fadeAt = now.Add(fadeTime)
	sa.fading = append(sa.fading, c)
}

// childOffer is the initiator's side of a CHILD_SA negotiation.
type childOffer struct {
	sa     *SA
	cfg    *ChildConfig
	flow   *spd.Flow
	first  bool // in IKE_AUTH
	single bool // one pair of selectors only
	old    *Child

	proposals []suite.Proposal
	proto     suite.Protocol
	spi       uint32
	tsi, tsr  []spd.TS
}

// reserve prepares the offer and gets an SPI.
func (o *childOffer) reserve(now time.Time, x *flow, then func(time.Time, *trace.Failure)) {
	sa := o.sa
	if o.proposals == nil {
		if f := o.prepare(now); f != nil {
			then(now, f)
			return
		}
	}
	if o.spi != 0 {
		then(now, nil)
		return
	}
	x.ask(AllocSPI{Proto: o.proto, Local: sa.local.Addr()}, func(now time.Time, r Reply) {
		s, ok := r.(SPIReply)
		if !ok || s.Err != nil {
			then(now, sa.failure(now, trace.StageInstall, fmt.Sprintf("no SPI for %s: %v", o.cfg.Name, s.Err), "see the kernel's or the datapath's message"))
			return
		}
		o.spi = s.SPI
		then(now, nil)
	})
}

func (o *childOffer) prepare(now time.Time) *trace.Failure {
	sa, cfg := o.sa, o.cfg
	fault := func(format string, args ...any) *trace.Failure {
		return sa.failure(now, trace.StageConfig, fmt.Sprintf("child %s: ", cfg.Name)+fmt.Sprintf(format, args...), "correct the configuration of the child")
	}
	if len(cfg.Proposals) == 0 {
		return fault("no proposal is configured")
	}
	o.proto = cfg.Proposals[0].Protocol
	for _, p := range cfg.Proposals {
		if p.Protocol != o.proto {
			return fault("ESP and AH proposals cannot be offered together")
		}
	}
	o.proposals = cfg.Proposals
	if o.first {
		o.proposals = withoutKE(cfg.Proposals)
	}
	if cfg.Mode != spd.Tunnel && sa.nat.any() && cfg.ModeRequired {
		return fault("transport and BEET mode do not work through a NAT here (RFC 7296, Section 2.23.1)")
	}
	switch {
	case o.old != nil:
		// RFC 7296, Section 2.9.2: what is in force stays.
		o.tsi, o.tsr = o.old.Local, o.old.Remote
		return nil
	case len(sa.cfg.VIPs) > 0 && o.first:
		// RFC 7296, Section 2.19: the responder narrows this to the address that it
		// assigns.
		o.tsi = resolveAnything(cfg.Local, sa.cfg.VIPs)
	default:
		o.tsi = sa.localTS(cfg)
	}
	o.tsr = sa.remoteTS(cfg)
	if f := o.flow; f != nil {
		// RFC 7296, Section 2.9: the packet first.
		l, r := f.LocalTS(), f.RemoteTS()
		if o.single {
			o.tsi, o.tsr = []spd.TS{l}, []spd.TS{r}
		} else if spd.Subset([]spd.TS{l}, o.tsi) && spd.Subset([]spd.TS{r}, o.tsr) {
			o.tsi = append([]spd.TS{l}, o.tsi...)
			o.tsr = append([]spd.TS{r}, o.tsr...)
		}
	} else if o.single && len(o.tsi) > 0 && len(o.tsr) > 0 {
		o.tsi, o.tsr = o.tsi[:1], o.tsr[:1]
	}
	if len(o.tsi) == 0 || len(o.tsr) == 0 {
		return fault("there is no traffic selector on one side")
	}
	if len(o.tsi) > 255 || len(o.tsr) > 255 {
		return fault("more than 255 traffic selectors on one side cannot be offered")
	}
	return nil
}

// resolveAnything puts whole families for dynamic selectors.
func resolveAnything(list []Selector, vips []netip.Addr) []spd.TS {
	var out []spd.TS
	for _, s := range list {
		if !s.Dynamic {
			out = append(out, s.TS)
			continue
		}
		for _, a := range vips {
			p := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			if a.Unmap().Is4() {
				p = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			}
			t := spd.FromPrefix(p)
			t.Proto = s.Proto
			if s.PortFrom != 0 || s.PortTo != 0 {
				t.PortFrom, t.PortTo = s.PortFrom, s.PortTo
			}
			out = append(out, t)
		}
	}
	return spd.Minimize(out)
}

// singlePair tells whether a narrower offer than the last one can be made.
func (o *childOffer) singlePair() bool { return !o.single && o.old == nil }

// mode is what is asked for; behind a NAT only tunnel mode.
func (o *childOffer) mode() spd.Mode {
	if o.old != nil {
		return o.old.Mode
	}
	if o.sa.nat.any() {
		return spd.Tunnel
	}
	return o.cfg.Mode
}

// payloads are [N(mode),] SA, TSi, TSr; without Ni and KE.
func (o *childOffer) payloads() []message.Payload {
	var ps []message.Payload
	if n := modeNotify(o.mode()); n != message.NoNotify {
		ps = append(ps, message.NewNotify(n, nil))
	}
	return append(ps, offerSA(o.proposals, spiBytes(o.spi)), toWire(o.tsi, false), toWire(o.tsr, true))
}

func spiBytes(spi uint32) []byte {
	return []byte{byte(spi >> 24), byte(spi >> 16), byte(spi >> 8), byte(spi)}
}

// free gives the SPI back.
func (o *childOffer) free() {
	if o.spi != 0 {
		o.sa.tell(FreeSPI{Proto: o.proto, Local: o.sa.local.Addr(), SPI: o.spi})
		o.spi = 0
	}
}

func (o *childOffer) evidence() []string {
	ev := []string{"local:  " + selectors(o.tsi), "remote: " + selectors(o.tsr)}
	for i, p := range o.proposals {
		ev = append(ev, fmt.Sprintf("proposal %d: %v", i+1, p))
	}
	return ev
}

// childAnswer is what the responder says.
type childAnswer struct {
	sa       *message.SA
	tsi, tsr *message.TrafficSelectors
	notifies message.Notifies
	gir      secret.Bytes
	ni, nr   []byte
}

// build checks the answer and makes the child. With a failure the peer's half is
// deleted again.
func (o *childOffer) build(now time.Time, a childAnswer) (*Child, *trace.Failure) {
	sa := o.sa
	p := &a.sa.Proposals[0]
	chosen, err := chosenFrom(o.proposals, p, suite.Options{IgnoreKE: o.first})
	if err != nil {
		return nil, sa.failure(now, trace.StageChild, err.Error(), "this is a fault of the peer", o.evidence()...)
	}
	spi, ok := p.ChildSPI()
	if !ok || spi == 0 {
		return nil, sa.failure(now, trace.StageChild, "the peer gave no SPI", "this is a fault of the peer")
	}
	local, remote := fromWire(a.tsi), fromWire(a.tsr)
	if o.first && o.old == nil && len(sa.cfg.VIPs) > 0 {
		// RFC 7296, Section 2.19: what was offered stood for the address that the
		// responder assigns. It cannot choose more than that.
		local = spd.Narrow(sa.localTS(o.cfg), local)
		if len(local) == 0 {
			return nil, sa.failure(now, trace.StageSelectors, "the peer's traffic selectors leave out the address that it assigned", "this is a fault of the peer",
				"assigned: "+selectors(sa.localTS(o.cfg)), "answered: "+selectors(fromWire(a.tsi)))
		}
	}
	// RFC 7296, Section 2.9.
	if !spd.Subset(local, o.tsi) || !spd.Subset(remote, o.tsr) {
		return nil, sa.failure(now, trace.StageSelectors, "the peer's traffic selectors are not part of what was offered", "this is a fault of the peer",
			"offered:  "+selectors(o.tsi)+" === "+selectors(o.tsr), "answered: "+selectors(local)+" === "+selectors(remote))
	}
	mode := spd.Tunnel
	if n := modeNotify(o.mode()); n != message.NoNotify {
		switch {
		case a.notifies.Has(n):
			mode = o.mode()
		case o.cfg.ModeRequired:
			return nil, sa.failure(now, trace.StageChild, fmt.Sprintf("the peer insists on tunnel mode for %s", o.cfg.Name), "set the same mode on both sides")
		}
	}
	c := &Child{
		UniqueID: sa.env.NextChildID(), Config: o.cfg, Mode: mode, SPIIn: o.spi, SPIOut: spi,
		Local: local, Remote: remote, NoTFC: a.notifies.Has(message.ESPTFCPaddingNotSupported), Initiator: true,
	}
	c.reserved = true
	if o.old != nil {
		c.Replaces = o.old.UniqueID
	}
	if err := sa.newChild(c, chosen, a.gir, a.ni, a.nr); err != nil {
		return nil, sa.failure(now, trace.StageChild, err.Error(), "")
	}
	o.spi = 0
	return c, nil
}

// accept is build and install; then gets nil when it failed.
func (o *childOffer) accept(now time.Time, x *flow, a childAnswer, then func(time.Time, *Child)) {
	sa := o.sa
	c, f := o.build(now, a)
	if f != nil {
		sa.failed(now, o.cfg, f)
		sa.refuseGiven(now, o, &a.sa.Proposals[0])
		then(now, nil)
		return
	}
	sa.installChild(x, c, true, true, func(now time.Time, err error) {
		if err != nil {
			sa.installFailed(now, c, err)
			then(now, nil)
			return
		}
		if c.State == ChildDeleted {
			sa.failed(now, c.Config, sa.failure(now, trace.StageRefused, "the peer closed CHILD_SA "+c.Config.Name+" at once", "see the peer's log"))
			then(now, nil)
			return
		}
		then(now, c)
	})
}

// installFailed gives up a child of ours that the backend refused.
func (sa *SA) installFailed(now time.Time, c *Child, err error) {
	sa.failed(now, c.Config, sa.failure(now, trace.StageInstall, fmt.Sprintf("%s cannot be installed: %v", c.Config.Name, err), "see the kernel's or the datapath's message"))
	c.silent = true
	if c.State == ChildDeleted {
		return
	}
	sa.removeChild(c, true, true)
	sa.enqueueFirst(&deleteChild{sa: sa, child: c})
}

// refuseGiven deletes what the peer set up and we do not want.
func (sa *SA) refuseGiven(now time.Time, o *childOffer, p *message.Proposal) {
	spi, _ := p.ChildSPI()
	c := &Child{UniqueID: sa.env.NextChildID(), Config: o.cfg, Proto: o.proto, SPIIn: o.spi, SPIOut: spi,
		LocalAddr: sa.local, RemoteAddr: sa.remote, Initiator: true, State: ChildDeleting}
	c.silent, c.reserved = true, true
	o.spi = 0
	sa.children = append(sa.children, c)
	sa.enqueueFirst(&deleteChild{sa: sa, child: c})
}
