package ikev1

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/spd"
)

// text is all that a host says of failures: sentences, advice and evidence.
func text(h *host) string {
	s := why(h)
	for _, c := range h.closed {
		if f := c.Failure; f != nil {
			s += f.Advice + strings.Join(f.Evidence, "\n")
		}
	}
	for _, e := range happened[keyex.Failed](h) {
		s += e.Failure.Advice + strings.Join(e.Failure.Evidence, "\n")
	}
	return s
}

// What goes wrong most often is named on both sides, within the time that a person
// waits for it, and neither side keeps anything.
func TestSentences(t *testing.T) {
	another := func(_, _ ident.ID) (string, bool) { return "another", true }
	aggressive := func(p *pair, consent bool) {
		p.ca.V1.Aggressive, p.cb.V1 = true, keyex.V1{Aggressive: true, AggressivePSK: consent}
	}
	vips := func(p *pair) { p.ca.VIPs, p.cb.Pools = []netip.Addr{netip.IPv4Unspecified()}, []string{"p"} }
	for name, c := range map[string]struct {
		change func(p *pair)
		within time.Duration
		a, b   string // must be said
	}{
		"secrets differ":               {func(p *pair) { p.b.key = another }, 15 * time.Second, "the pre-shared keys differ", "the pre-shared keys differ"},
		"secrets differ, aggressive":   {func(p *pair) { p.b.key = another; aggressive(p, true) }, 35 * time.Second, "another shared secret", "AUTHENTICATION-FAILED"},
		"no consent":                   {func(p *pair) { aggressive(p, false) }, 5 * time.Second, "NO-PROPOSAL-CHOSEN", "aggressive_psk: yes"},
		"no aggressive":                {func(p *pair) { p.ca.V1.Aggressive = true }, 5 * time.Second, "NO-PROPOSAL-CHOSEN", "test does not accept"},
		"identity, aggressive":         {func(p *pair) { aggressive(p, true); p.cb.Remote.ID = id(t, "x.example.org") }, 5 * time.Second, "NO-PROPOSAL-CHOSEN", "test expects x.example.org"},
		"identity of the initiator":    {func(p *pair) { p.cb.Remote.ID = id(t, "x.example.org") }, 5 * time.Second, "expects another one of us; its log names itours: 192.0.2.1", "the peer is 192.0.2.1, expected x.example.org"},
		"identity of the responder":    {func(p *pair) { p.ca.Remote.ID = id(t, "x.example.org") }, 5 * time.Second, "the peer is 192.0.2.2, expected x.example.org", "refused the IKE_SA with INVALID-ID-INFORMATION"},
		"proposals":                    {func(p *pair) { p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes256-sha384-modp2048") }, 5 * time.Second, "ours: IKE:AES_CBC_128", "theirs 1: IKE:AES_CBC_128"},
		"method":                       {func(p *pair) { p.xauth("bob"); p.ca.V1.XAuth = keyex.NoXAuth }, 5 * time.Second, "ours: pre-shared key", "by pre-shared key, and this connection by pre-shared key and XAuth"},
		"perfect forward secrecy":      {func(p *pair) { p.cha.Proposals = proposals(t, suite.ProtoESP, "aes256-sha256-ecp256") }, 5 * time.Second, "ours: ESP:AES_CBC_256/HMAC_SHA2_256_128/ECP_256", "perfect forward secrecy"},
		"selectors":                    {func(p *pair) { p.chb.Remote = []keyex.Selector{net("10.7.0.0/16")} }, 5 * time.Second, "ours: 10.1.0.0/16 === 10.2.0.0/16", "net has 10.2.0.0/16 === 10.7.0.0/16"},
		"password":                     {func(p *pair) { p.xauth("bob"); p.a.password = "guess" }, 5 * time.Second, "refused the user bob", "the user \"bob\" of the peer 192.0.2.1 is refused"},
		"mode":                         {func(p *pair) { p.chb.Mode, p.chb.ModeRequired = spd.Transport, true }, 5 * time.Second, "mode tunnel", "the peer offers mode tunnel, and net has mode transport"},
		"the server waits to be asked": {func(p *pair) { vips(p); p.ca.V1.Push = true }, 35 * time.Second, "pushed no virtual address", "deleted"},
	} {
		p := newPair(t)
		c.change(p)
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(c.within)
		if !strings.Contains(text(p.a), c.a) {
			t.Errorf("%s: the initiator does not say %q: %s", name, c.a, text(p.a))
		}
		if !strings.Contains(text(p.b), c.b) {
			t.Errorf("%s: the responder does not say %q: %s", name, c.b, text(p.b))
		}
		if len(p.a.in)+len(p.b.in)+len(p.a.reserved)+len(p.b.reserved)+p.b.leases != 0 || len(happened[keyex.Failed](p.a)) == 0 && len(p.a.sas)+len(p.b.sas) != 0 {
			t.Errorf("%s: something is left: %d and %d IKE SAs", name, len(p.a.sas), len(p.b.sas))
		}
	}
}

// A client that is gone before it acknowledges that its user is refused does not
// hide the refusal.
func TestRefusalUnacknowledged(t *testing.T) {
	p := newPair(t)
	p.xauth("bob")
	p.a.password = "guess"
	told := 0
	p.filter = func(x *packet) []*packet {
		if x.from.Addr() == p.b.addr && message.Exchange(headerOf(x).Exchange) == message.ExchangeTransaction {
			if told++; told > 1 {
				return nil
			}
		}
		return []*packet{x}
	}
	p.a.initiate(p.ca, p.b, p.cha)
	p.run(time.Minute)
	if len(p.b.sas) != 0 || len(p.b.closed) != 1 || p.b.closed[0].Reason != keyex.CloseFailed || !strings.Contains(why(p.b), "the user \"bob\" of the peer 192.0.2.1 is refused") {
		t.Errorf("the refusal is not told: %s", why(p.b))
	}
}

// A refusal of Quick Mode that got lost is told again.
func TestLostRefusal(t *testing.T) {
	p := newPair(t)
	p.chb.Remote = []keyex.Selector{net("10.7.0.0/16")}
	lost := 0
	p.filter = func(x *packet) []*packet {
		if x.from.Addr() == p.b.addr && message.Exchange(headerOf(x).Exchange) == message.ExchangeInformational {
			if lost++; lost == 1 {
				return nil
			}
		}
		return []*packet{x}
	}
	p.up()
	if !strings.Contains(text(p.a), "INVALID-ID-INFORMATION") || len(happened[keyex.Failed](p.b)) != 1 {
		t.Errorf("after %d refusals: %s %s", lost, text(p.a), text(p.b))
	}
}

// RFC 2407, Section 4.6.3.3: a first contact comes once. Whoever recorded it cannot
// end newer SAs with it when its message ID is forgotten.
func TestInitialContactOnce(t *testing.T) {
	p := newPair(t)
	p.ca.InitialContact = true
	p.up().matched(1)
	for range 2 {
		p.informOf(p.saA.initialContact())
	}
	said := 0
	for _, u := range happened[keyex.Up](p.b) {
		if u.InitialContact {
			said++
		}
	}
	if said != 1 {
		t.Errorf("it counted %d times", said)
	}
}

// Some peers refuse with the keys that there are before phase 1 is over, others with
// keys that are not ours, since their secret is another one: both are hints, and the
// true message still gets in.
func TestRefusalBeforeTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		hostile, mac bool // the last one: HASH is right
		want         string
	}{"refused": {mac: true, want: "refused Main Mode with AUTHENTICATION-FAILED"}, "another secret": {want: "the pre-shared keys differ"}, "somebody on the way": {hostile: true}} {
		p := newPair(t)
		p.filter = func(x *packet) []*packet {
			h := headerOf(x)
			if x.from.Addr() != p.a.addr || message.Exchange(h.Exchange) != message.ExchangeMain || h.Flags&message.FlagEncryption == 0 {
				return []*packet{x}
			}
			b := p.b.sas[0]
			if b.p1 == nil {
				return []*packet{x}
			}
			h.Exchange, h.MessageID = uint8(message.ExchangeInformational), 77
			list := []message.Payload{&message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoISAKMP, Kind: message.AuthenticationFailed}}
			rest, err := message.AppendPayloads(nil, list)
			if err != nil {
				t.Fatal(err)
			}
			hash := make([]byte, 32)
			if c.mac {
				hash = b.keys.hashOf(idOctets(77), rest)
			}
			sealed, _, err := b.keys.seal(b.keys.ivAfter(x.data[len(x.data)-16:], 77), h, append([]message.Payload{&message.Opaque{Kind: message.TypeHash, Data: hash}}, list...))
			if err != nil {
				t.Fatal(err)
			}
			out := []*packet{{from: x.to, to: x.from, data: sealed}}
			if c.hostile {
				late := *x
				late.extra = time.Second
				out = append(out, &late)
			}
			return out
		}
		p.up()
		if c.hostile {
			p.matched(1)
		} else if len(p.a.sas) != 0 || !strings.Contains(why(p.a), c.want) {
			t.Errorf("%s: %s", name, why(p.a))
		}
	}
}

// A message that makes no sense is answered once, whatever comes after it: a
// stranger on the way gets no second answer, and the true peer still gets in.
func TestGarbledOnce(t *testing.T) {
	p := newPair(t)
	notifies := 0
	p.filter = func(x *packet) []*packet {
		h := headerOf(x)
		if x.from.Addr() == p.b.addr && message.Exchange(h.Exchange) == message.ExchangeInformational {
			notifies++
		}
		if x.from.Addr() == p.a.addr && message.Exchange(h.Exchange) == message.ExchangeMain && h.Flags&message.FlagEncryption != 0 {
			var out []*packet
			for i := range 5 {
				bad := *x
				bad.data = append([]byte(nil), x.data...)
				for j := 28; j < len(bad.data); j++ {
					bad.data[j] ^= byte(i + 1)
				}
				out = append(out, &bad)
			}
			late := *x
			late.extra = time.Second
			return append(out, &late)
		}
		return []*packet{x}
	}
	p.up().matched(1)
	if notifies != 1 {
		t.Errorf("%d notifies for five messages that make no sense", notifies)
	}
}

// Quick Modes that come at once are all answered: what is over does not count
// among those that go on.
func TestManyQuickModesAtOnce(t *testing.T) {
	p := newPair(t)
	p.cha.Local, p.chb.Remote = nil, nil
	for i := range 300 {
		s := keyex.Selector{TS: net("10.1.0.0/16").TS}
		s.TS.From = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		s.TS.To = s.TS.From
		p.cha.Local = append(p.cha.Local, s)
		p.chb.Remote = append(p.chb.Remote, s)
	}
	most := 0
	p.filter = func(x *packet) []*packet {
		if x.from.Addr() == p.a.addr {
			n := 0
			for _, e := range p.a.sas[0].exchanges {
				if e.next != nil {
					n++
				}
			}
			most = max(most, n)
		}
		return []*packet{x}
	}
	p.a.initiate(p.ca, p.b, p.cha)
	p.run(20 * time.Second)
	p.matched(300)
	if n := p.b.counts["ike-drop:too-many-exchanges"]; n != 0 {
		t.Errorf("%d messages were dropped for want of room", n)
	}
	if most > maxParallel {
		t.Errorf("%d Quick Modes went on at once, at most %d", most, maxParallel)
	}
}

// A notify about an SA that is over is no refusal of the ISAKMP SA: when the peer ends
// that later, it ends it, and nothing failed.
func TestLateNotifyIsNoRefusal(t *testing.T) {
	p := newPair(t).up()
	sa := p.a.sas[0]
	sa.takeError(p.now, &message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoESP, Kind: message.InvalidSPI, SPI: []byte{1, 2, 3, 4}})
	sa.takeError(p.now, &message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoESP, Kind: message.NoProposalChosen})
	if sa.lastError != 0 {
		t.Errorf("a notify about an SA counts as a refusal: %s", sa.lastError.Name())
	}
	sa.takeError(p.now, &message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoISAKMP, Kind: message.AuthenticationFailed})
	if sa.lastError != message.AuthenticationFailed {
		t.Error("a notify about the ISAKMP SA is forgotten")
	}
}
