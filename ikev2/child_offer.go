package ikev2

import (
	"fmt"
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// childOffer is the initiator's side of a CHILD_SA negotiation.
type childOffer struct {
	sa     *SA
	cfg    *ChildConfig
	flow   *spd.Flow
	first  bool // in IKE_AUTH
	single bool // one pair of selectors only
	only   *tsPair
	rest   []tsPair // what is asked for after it
	old    *Child

	proposals []suite.Proposal
	proto     suite.Protocol
	spi       uint32
	cpi       uint16 // of compression; 0: none is offered
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
	x.Ask(AllocSPI{Proto: o.proto, Local: sa.reservesAt(o.mode(), o.tsi)}, func(now time.Time, r Reply) {
		s, ok := r.(SPIReply)
		if !ok || s.Err != nil {
			then(now, sa.failure(now, trace.StageInstall, fmt.Sprintf("no SPI for %s: %v", o.cfg.Name, s.Err), "see the kernel's or the datapath's message"))
			return
		}
		o.spi = s.SPI
		o.reserveCPI(now, x, then)
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
	if f := sa.ahThroughNAT(now, cfg, o.proto); f != nil {
		return f
	}
	if o.old != nil {
		// RFC 7296, Section 2.9.2: what is in force stays.
		o.tsi, o.tsr = o.old.Local, o.old.Remote
		return nil
	}
	if f := sa.homeThroughNAT(now, cfg, cfg.Mode); f != nil {
		return f
	}
	switch {
	case o.only != nil:
		o.tsi, o.tsr = []spd.TS{o.only.local}, []spd.TS{o.only.remote}
		return nil
	case len(sa.cfg.VIPs) > 0 && o.first:
		// RFC 7296, Section 2.19: the responder narrows this to the address that it
		// assigns.
		o.tsi = resolveAnything(cfg.Local, sa.cfg.VIPs)
	default:
		o.tsi = sa.localTS(cfg)
	}
	o.tsr = sa.remoteTS(cfg)
	if len(o.tsi) == 0 || len(o.tsr) == 0 {
		if sa.cfg.ChecksHomes() && len(o.tsr) == 0 {
			return sa.failure(now, trace.StageSelectors, fmt.Sprintf("child %s: none of its addresses is one that the peer %v may have", cfg.Name, sa.cfg.Remote.ID),
				"add home_addresses to the remote section, or for its identity at the top")
		}
		if cfg.Mode == spd.Transport && !sa.cfg.OwnEnds(cfg.Mode) {
			return fault("its selectors %s === %s leave out the addresses of the two hosts, %v and %v, and transport mode is for their traffic (RFC 4301, Section 4.1)",
				spd.ListText(resolve(cfg.Local, nil)), spd.ListText(resolve(cfg.Remote, nil)), sa.local.Addr(), sa.host)
		}
		return fault("there is no traffic selector on one side")
	}
	if f := o.packetFirst(now); f != nil {
		return f
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

// packetFirst puts the selectors of the packet before the others (RFC 7296,
// Section 2.9), and its values in place of what is flagged in the others (RFC 4301,
// Section 4.4.1.2).
func (o *childOffer) packetFirst(now time.Time) *trace.Failure {
	f, cfg := o.flow, o.cfg
	fault := func(sentence, advice string) *trace.Failure {
		return o.sa.failure(now, trace.StageSelectors, fmt.Sprintf("child %s: %s", cfg.Name, sentence), advice,
			"configured: "+spd.ListText(o.tsi)+" === "+spd.ListText(o.tsr))
	}
	if f == nil {
		if cfg.PFP != 0 {
			return fault("its SAs take their selectors from packets, and no packet asks for this one", "send traffic; set start: on-demand")
		}
		return nil
	}
	l := f.LocalTS()
	r := theirType(f, l, o.tsr)
	fits := spd.Subset([]spd.TS{l}, o.tsi) && spd.Subset([]spd.TS{r}, o.tsr)
	switch {
	case cfg.PFP != 0 && !fits:
		return fault(fmt.Sprintf("the packet from %s to %s is none of its traffic", spd.ListText([]spd.TS{l}), spd.ListText([]spd.TS{r})),
			"compare local_ts and remote_ts with the addresses of this system")
	case o.single:
		o.tsi, o.tsr = []spd.TS{l}, []spd.TS{r}
	case fits:
		first := func(p spd.TS, list []spd.TS) []spd.TS {
			if len(list) == 1 && list[0] == p {
				return list
			}
			return append([]spd.TS{p}, list...)
		}
		o.tsi = first(l, localPFP(cfg.PFP).populate(o.tsi, l))
		o.tsr = first(r, remotePFP(cfg.PFP).populate(o.tsr, r))
	}
	return nil
}

// mode is what is asked for.
func (o *childOffer) mode() spd.Mode {
	if o.old != nil {
		return o.old.Mode
	}
	return o.cfg.Mode
}

// payloads are [N(IPCOMP_SUPPORTED),] [N(mode),] SA, TSi, TSr; without Ni and KE.
func (o *childOffer) payloads() []message.Payload {
	var ps []message.Payload
	if o.cpi != 0 {
		ps = append(ps, ipcompNotify(o.cpi))
	}
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
	o.sa.freeCPI(&o.cpi)
	if o.spi != 0 {
		o.sa.Tell(FreeSPI{Proto: o.proto, Local: o.sa.local.Addr(), SPI: o.spi})
		o.spi = 0
	}
}

func (o *childOffer) evidence() []string {
	ev := []string{"local:  " + spd.ListText(o.tsi), "remote: " + spd.ListText(o.tsr)}
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
	mode := spd.Tunnel
	if n := modeNotify(o.mode()); n != message.NoNotify && a.notifies.Has(n) {
		mode = o.mode()
	}
	var natLocal, natRemote netip.Addr
	if _, _, one := (childSelectors{local, remote}).ends(); sa.cfg.OwnEnds(mode) && !one {
		return nil, sa.failure(now, trace.StageSelectors, "the peer takes transport mode with more than one address on a side", "write the home address and that of the home agent into local_ts and remote_ts",
			"answered: "+spd.ListText(local)+" === "+spd.ListText(remote))
	}
	if mode == spd.Transport && !sa.cfg.OwnEnds(mode) {
		l, r, ofLocal, ofRemote, ok := sa.natSelectors(local, remote)
		if !ok {
			return nil, sa.failure(now, trace.StageSelectors, "the peer takes transport mode with more than one address on a side", "this is a fault of the peer (RFC 7296, Section 2.23.1)",
				"answered: "+spd.ListText(local)+" === "+spd.ListText(remote))
		}
		local, remote, natLocal, natRemote = l, r, ofLocal, ofRemote
	}
	if o.first && o.old == nil && len(sa.cfg.VIPs) > 0 {
		// RFC 7296, Section 2.19: what was offered stood for the address that the
		// responder assigns. It cannot choose more than that.
		local = spd.Narrow(sa.localTS(o.cfg), local)
		if len(local) == 0 {
			return nil, sa.failure(now, trace.StageSelectors, "the peer's traffic selectors leave out the address that it assigned", "this is a fault of the peer",
				"assigned: "+spd.ListText(sa.localTS(o.cfg)), "answered: "+spd.ListText(fromWire(a.tsi)))
		}
	}
	// RFC 7296, Section 2.9.
	if !spd.Subset(local, o.tsi) || !spd.Subset(remote, o.tsr) {
		return nil, sa.failure(now, trace.StageSelectors, "the peer's traffic selectors are not part of what was offered", "this is a fault of the peer",
			"offered:  "+spd.ListText(o.tsi)+" === "+spd.ListText(o.tsr), "answered: "+spd.ListText(local)+" === "+spd.ListText(remote))
	}
	if f := sa.foreignHome(now, o.cfg, remote); f != nil {
		return nil, f
	}
	switch {
	case mode != o.mode() && (o.cfg.ModeRequired || o.old != nil):
		// RFC 7296, Section 1.3.1. What is in force stays when it is rekeyed.
		return nil, sa.failure(now, trace.StageChild, fmt.Sprintf("the peer insists on tunnel mode for %s, which has %s mode", o.cfg.Name, modeName(o.mode())), "set the same mode on both sides")
	case mode == spd.BEET && !fitsMode(mode, local, remote):
		return nil, sa.failure(now, trace.StageSelectors, "the peer takes BEET mode with more than one pair of addresses", "this is a fault of the peer",
			"answered: "+spd.ListText(local)+" === "+spd.ListText(remote))
	case mode != o.mode():
		sa.logChild(now, o.cfg, true, "the peer does not take %s mode for %s: tunnel mode it is", modeName(o.mode()), o.cfg.Name)
	}
	cpi, f := o.compression(now, a.notifies)
	if f != nil {
		return nil, f
	}
	if cpi == 0 {
		sa.freeCPI(&o.cpi)
	}
	c := &Child{
		UniqueID: sa.env.NextChildID(), Config: o.cfg, Mode: mode, SPIIn: o.spi, SPIOut: spi, CPIIn: o.cpi, CPIOut: cpi,
		Local: local, Remote: remote, NATLocal: natLocal, NATRemote: natRemote, Flow: o.flow,
		NoTFC: a.notifies.Has(message.ESPTFCPaddingNotSupported), Initiator: true,
	}
	book(c).Reserved = true
	if o.old != nil {
		c.Replaces, c.Flow = o.old.UniqueID, o.old.Flow
	}
	if err := sa.newChild(c, chosen, a.gir, a.ni, a.nr); err != nil {
		return nil, sa.failure(now, trace.StageChild, err.Error(), "")
	}
	o.spi, o.cpi = 0, 0
	return c, nil
}

// accept is build and install; then gets nil when it failed.
func (o *childOffer) accept(now time.Time, x *flow, a childAnswer, then func(time.Time, *Child)) {
	sa := o.sa
	c, f := o.build(now, a)
	if f != nil {
		sa.refuseGiven(now, o, &a.sa.Proposals[0])
		o.failed(now, f)
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
			sa.failedFor(now, c.Config, c.Flow, sa.failure(now, trace.StageRefused, "the peer closed CHILD_SA "+c.Config.Name+" at once", "see the peer's log"))
			then(now, nil)
			return
		}
		o.askForRest(now, c, a.notifies.Has(message.AdditionalTSPossible))
		then(now, c)
	})
}

// installFailed gives up a child of ours that the backend refused.
func (sa *SA) installFailed(now time.Time, c *Child, err error) {
	sa.failedFor(now, c.Config, c.Flow, sa.failure(now, trace.StageInstall, fmt.Sprintf("%s cannot be installed: %v", c.Config.Name, err), "see the kernel's or the datapath's message"))
	book(c).silent = true
	if c.State == ChildDeleted {
		return
	}
	sa.removeChild(c, true, true)
	sa.enqueueFirst(&deleteChild{sa: sa, child: c})
}

// refuseGiven deletes what the peer set up and we do not want.
func (sa *SA) refuseGiven(now time.Time, o *childOffer, p *message.Proposal) {
	spi, _ := p.ChildSPI()
	c := &Child{UniqueID: sa.env.NextChildID(), Config: o.cfg, Proto: o.proto, SPIIn: o.spi, SPIOut: spi, CPIIn: o.cpi,
		LocalAddr: sa.local, RemoteAddr: sa.remote, Initiator: true, State: ChildDeleting}
	book(c).silent, book(c).Reserved = true, true
	o.spi, o.cpi = 0, 0
	sa.children = append(sa.children, c)
	sa.enqueueFirst(&deleteChild{sa: sa, child: c})
}
