package ikev2test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/ikev2"
	"iked/ikev2/message"
	"iked/internal/ident"
	"iked/internal/secret"
)

// Host is an endpoint with a PSK store, a backend that remembers what is
// installed, and a table of IKE SAs. It is an ikev2.Env.
type Host struct {
	Net  *Net
	Name string
	Addr netip.Addr
	// More are further addresses; Routes, when set, tells between which there is a way.
	More   []netip.Addr
	Routes func(ikev2.Path) bool
	// Allowed, when set, tells where a peer may be.
	Allowed func(local, remote netip.Addr) bool
	Configs []*ikev2.Config
	// Key is the PSK for everybody; KeyFor decides by identities when set.
	Key    string
	KeyFor func(local, remote ident.ID) (string, bool)
	// Delay is how long the work of a kind takes, by its Go type: "Compute".
	Delay map[string]time.Duration
	// RefuseInstall makes the backend refuse SAs.
	RefuseInstall bool
	// DemandCookies makes the gate ask every stranger for a cookie.
	DemandCookies bool
	Pool          []netip.Addr
	DNS           []netip.Addr
	Others        []ikev2.Attribute // of the pool
	LastIn        time.Time         // answers LastInbound
	Anchors       []byte            // answers CertRequests
	// OnWork, when set, sees each piece of work before it is done.
	OnWork func(ikev2.Work)

	SAs    []*ikev2.SA
	Closed []ikev2.Closed
	Events []ikev2.SAEvent
	Moves  int
	// In and Out are the installed SAs by SPI, Reserved the SPIs without SA.
	In, Out   map[uint32]*ikev2.Child
	Reserved  map[uint32]bool
	Addresses []netip.Prefix // in use as client
	Leased    map[netip.Addr]bool
	KeepAlive int
	Counts    map[string]int

	cookies  *ikev2.Cookies
	tombs    map[ikev2.SPI]ikev2.Tombstone
	spi      uint32
	childID  uint32
	ikeID    uint32
	draining map[*ikev2.SA]bool
}

// AddHost puts a host into the network.
func (n *Net) AddHost(name, addr string) *Host {
	h := &Host{
		Net: n, Name: name, Addr: netip.MustParseAddr(addr), Key: "secret", Delay: map[string]time.Duration{},
		In: map[uint32]*ikev2.Child{}, Out: map[uint32]*ikev2.Child{}, Reserved: map[uint32]bool{}, Leased: map[netip.Addr]bool{},
		Counts: map[string]int{}, tombs: map[ikev2.SPI]ikev2.Tombstone{}, draining: map[*ikev2.SA]bool{},
		spi: 0x1000 * uint32(len(n.Hosts)+1),
	}
	h.cookies = ikev2.NewCookies(n.Now, 0, h.Random)
	n.Hosts = append(n.Hosts, h)
	return h
}

// Candidates implements ikev2.Env.
func (h *Host) Candidates(local, remote netip.Addr) []*ikev2.Config {
	if h.Allowed != nil && !h.Allowed(local, remote) {
		return nil
	}
	return h.Configs
}

// PSK implements ikev2.Env.
func (h *Host) PSK(local, remote ident.ID) (secret.Bytes, bool) {
	if h.KeyFor != nil {
		k, ok := h.KeyFor(local, remote)
		return secret.New([]byte(k)), ok
	}
	return secret.New([]byte(h.Key)), h.Key != ""
}

// CertRequests implements ikev2.Env.
func (h *Host) CertRequests(*ikev2.Config) []byte { return h.Anchors }

// NewSPI implements ikev2.Env.
func (h *Host) NewSPI() ikev2.SPI { return ikev2.SPI(h.Net.Rand.Uint64() | 1) }

// NextChildID implements ikev2.Env.
func (h *Host) NextChildID() uint32 { h.childID++; return h.childID }

// NextIKEID implements ikev2.Env.
func (h *Host) NextIKEID() uint32 { h.ikeID++; return h.ikeID }

// Random implements ikev2.Env, reproducibly.
func (h *Host) Random(b []byte) {
	for len(b) > 0 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], h.Net.Rand.Uint64())
		b = b[copy(b, w[:]):]
	}
}

// Initiate makes an SA to a peer and starts it.
func (h *Host) Initiate(cfg *ikev2.Config, to netip.Addr, child *ikev2.ChildConfig) *ikev2.SA {
	sa := ikev2.NewInitiator(h, cfg, netip.AddrPortFrom(h.Addr, 500), netip.AddrPortFrom(to, 500))
	h.SAs = append(h.SAs, sa)
	h.Start(sa, ikev2.StartInit{Child: child})
	return sa
}

// Start gives an SA a task.
func (h *Host) Start(sa *ikev2.SA, t ikev2.Task) {
	sa.Start(h.Net.Now, t)
	h.drain(sa)
}

// receive is the gate and the look-up.
func (h *Host) receive(p *Packet) {
	if p.KeepAlive {
		return
	}
	d := ikev2.Datagram{Local: p.To, Remote: p.From, NATT: p.NATT, Data: p.Data}
	hd, err := message.CheckHeader(p.Data)
	if err != nil {
		h.Counts["gate"]++
		return
	}
	own := hd.SPIi
	if hd.Flags&message.FlagInitiator != 0 {
		own = hd.SPIr
	}
	if own.IsZero() {
		h.gate(d)
		return
	}
	spi := ikev2.SPI(own.Uint64())
	for _, sa := range h.SAs {
		if sa.OwnSPI() == spi {
			sa.Receive(h.Net.Now, d)
			h.drain(sa)
			return
		}
	}
	if t := h.tombs[spi]; t != nil {
		for _, a := range t.Answer(d) {
			h.send(a)
		}
	}
}

// gate takes IKE_SA_INIT requests.
func (h *Host) gate(d ikev2.Datagram) {
	peek, err := message.PeekIKESAInit(d.Data)
	if err != nil {
		h.Counts["gate"]++
		return
	}
	spi := ikev2.SPI(peek.Header.SPIi.Uint64())
	for _, sa := range h.SAs {
		if !sa.Initiator() && sa.SPIi() == spi && sa.Remote() == d.Remote {
			sa.Receive(h.Net.Now, d)
			h.drain(sa)
			return
		}
	}
	if h.DemandCookies && !h.cookies.Check(h.Net.Now, peek.Cookie, d.Remote.Addr(), spi, peek.Nonce) {
		c := h.cookies.Make(h.Net.Now, d.Remote.Addr(), spi, peek.Nonce)
		d.Data = ikev2.CookieReply(peek.Header, c)
		h.send(d)
		return
	}
	sa := ikev2.NewResponder(h, d.Local, d.Remote, d.NATT)
	h.SAs = append(h.SAs, sa)
	sa.Receive(h.Net.Now, d)
	h.drain(sa)
}

func (h *Host) send(d ikev2.Datagram) {
	if !h.Has(d.Local.Addr()) {
		h.Counts["send-error"]++ // EADDRNOTAVAIL
		return
	}
	h.Net.send(&Packet{From: d.Local, To: d.Remote, NATT: d.NATT, Data: d.Data})
}

// drain does what an SA wants.
func (h *Host) drain(sa *ikev2.SA) {
	if h.draining[sa] {
		return
	}
	h.draining[sa] = true
	var also []*ikev2.SA
	for o := range sa.Outputs() {
		switch o := o.(type) {
		case ikev2.Send:
			h.send(o.Datagram)
		case ikev2.KeepAlive:
			h.KeepAlive++
			h.Net.send(&Packet{From: o.Local, To: o.Remote, NATT: true, KeepAlive: true})
		case ikev2.Request:
			h.work(sa, o)
		case ikev2.Event:
			if n, ok := o.Event.(ikev2.NewSA); ok {
				next := n.Successor.(*ikev2.SA)
				if !slices.Contains(h.SAs, next) {
					h.SAs = append(h.SAs, next)
				}
				also = append(also, next)
			}
			if c, ok := o.Event.(ikev2.Count); ok {
				h.Counts[c.Counter]++
				h.Counts[c.Counter+":"+c.Reason]++
				continue
			}
			h.Events = append(h.Events, o.Event)
		case ikev2.Closed:
			h.Closed = append(h.Closed, o)
			if i := slices.Index(h.SAs, sa); i >= 0 {
				h.SAs = slices.Delete(h.SAs, i, i+1)
			}
			if o.Tombstone != nil {
				h.tombs[sa.OwnSPI()] = o.Tombstone
			}
		}
	}
	delete(h.draining, sa)
	for _, s := range also {
		if slices.Contains(h.SAs, s) {
			h.drain(s)
		}
	}
}

// work does a Request, at once or after Delay.
func (h *Host) work(sa *ikev2.SA, r ikev2.Request) {
	kind := fmt.Sprintf("%T", r.Work)[len("ikev2."):]
	reply := h.do(r.Work)
	if reply == nil {
		return
	}
	resume := func() {
		sa.Resume(h.Net.Now, r.ID, reply)
		h.drain(sa)
	}
	if d := h.Delay[kind]; d > 0 {
		h.Net.Later(d, resume)
		return
	}
	resume()
}

func (h *Host) do(w ikev2.Work) ikev2.Reply {
	if h.OnWork != nil {
		h.OnWork(w)
	}
	switch w := w.(type) {
	case ikev2.Compute:
		return w.Run()
	case ikev2.AllocSPI:
		h.spi++
		h.Reserved[h.spi] = true
		return ikev2.SPIReply{SPI: h.spi}
	case ikev2.FreeSPI:
		if !h.Reserved[w.SPI] {
			h.Net.T.Errorf("%s: FreeSPI of %08x, which is not reserved", h.Name, w.SPI)
		}
		delete(h.Reserved, w.SPI)
	case ikev2.ChooseIdentity:
		if w.Config.Local.ID.IsAny() {
			return ikev2.IdentityReply{Err: errors.New("no certificate")}
		}
		return ikev2.IdentityReply{ID: w.Config.Local.ID, Certs: []ikev2.Cert{{Encoding: 4, Data: []byte("certificate of " + w.Config.Local.ID.String())}}}
	case ikev2.Sign:
		return ikev2.SignReply{Method: uint8(message.AuthSignature), Auth: h.signature(w.Octets)}
	case ikev2.Verify:
		if string(w.Auth) != string(h.signature(w.Octets)) {
			return ikev2.VerifyReply{Failure: &failureOfVerify}
		}
		return ikev2.VerifyReply{}
	case ikev2.AssignAddress:
		return h.assign(w)
	case ikev2.ReleaseAddress:
		for _, a := range w.Addrs {
			delete(h.Leased, a)
		}
	case ikev2.UseAddress:
		h.Addresses = w.Addrs
		if w.Remove {
			h.Addresses = nil
		}
	case ikev2.InstallChild:
		return h.install(w)
	case ikev2.MoveChild:
		h.Moves++
	case ikev2.RemoveChild:
		h.remove(w)
	case ikev2.LastInbound:
		return ikev2.TimeReply{At: h.LastIn}
	case ikev2.FindPaths:
		return h.paths(w)
	}
	return nil
}

// paths are all pairs of an own address and one of the peer's of one family, unless
// Routes says otherwise.
func (h *Host) paths(w ikev2.FindPaths) ikev2.Reply {
	r := ikev2.PathsReply{Own: append([]netip.Addr{h.Addr}, h.More...)}
	if !h.Addr.IsValid() {
		r.Own = r.Own[1:]
	}
	for _, to := range w.Remotes {
		for _, own := range r.Own {
			p := ikev2.Path{Local: own, Remote: to}
			if own.Is4() == to.Is4() && (h.Routes == nil || h.Routes(p)) {
				r.Paths = append(r.Paths, p)
			}
		}
	}
	return r
}

// Move gives the host other addresses, and tells its IKE SAs.
func (h *Host) Move(addrs ...string) {
	h.Addr, h.More = netip.Addr{}, nil
	for i, a := range addrs {
		if i == 0 {
			h.Addr = netip.MustParseAddr(a)
			continue
		}
		h.More = append(h.More, netip.MustParseAddr(a))
	}
	h.NetworkChanged()
}

// NetworkChanged tells the IKE SAs that addresses or routes are others.
func (h *Host) NetworkChanged() {
	for _, sa := range slices.Clone(h.SAs) {
		h.Start(sa, ikev2.NetworkChanged{})
	}
}

// Has tells whether an address is the host's.
func (h *Host) Has(a netip.Addr) bool {
	return a.IsValid() && (h.Addr == a || slices.Contains(h.More, a))
}

// signature stands for a real one: all hosts share the key.
func (h *Host) signature(octets []byte) []byte {
	s := sha256.Sum256(append([]byte("signature "), octets...))
	return s[:]
}

func (h *Host) assign(w ikev2.AssignAddress) ikev2.Reply {
	var r ikev2.AddressReply
	for _, want := range w.Wanted {
		for _, a := range h.Pool {
			if a.Is4() == want.Is4() && !h.Leased[a] {
				h.Leased[a] = true
				r.Addrs = append(r.Addrs, netip.PrefixFrom(a, a.BitLen()))
				break
			}
		}
	}
	if len(r.Addrs) == 0 && len(w.Wanted) > 0 {
		return ikev2.AddressReply{Err: errors.New("the pool is empty")}
	}
	r.DNS, r.Others = h.DNS, h.Others
	return r
}

func (h *Host) install(w ikev2.InstallChild) ikev2.Reply {
	c := w.Child
	if h.RefuseInstall {
		delete(h.In, c.SPIIn)
		delete(h.Out, c.SPIOut)
		return ikev2.DoneReply{Err: errors.New("refused")}
	}
	if w.In {
		if !h.Reserved[c.SPIIn] || h.In[c.SPIIn] != nil {
			h.Net.T.Errorf("%s: inbound SA %08x is installed without reservation or twice", h.Name, c.SPIIn)
		}
		delete(h.Reserved, c.SPIIn)
		if c.CPIIn != 0 && !h.Reserved[uint32(c.CPIIn)] {
			h.Net.T.Errorf("%s: CPI %04x is installed without reservation", h.Name, c.CPIIn)
		}
		delete(h.Reserved, uint32(c.CPIIn))
		h.In[c.SPIIn] = c
	}
	if w.Out {
		if h.Out[c.SPIOut] != nil {
			h.Net.T.Errorf("%s: outbound SA %08x is installed twice", h.Name, c.SPIOut)
		}
		h.Out[c.SPIOut] = c
	}
	return ikev2.DoneReply{}
}

func (h *Host) remove(w ikev2.RemoveChild) {
	c := w.Child
	if w.In {
		if h.In[c.SPIIn] != c {
			h.Net.T.Errorf("%s: inbound SA %08x is removed, it is not there", h.Name, c.SPIIn)
		}
		delete(h.In, c.SPIIn)
	}
	if w.Out {
		if h.Out[c.SPIOut] != c {
			h.Net.T.Errorf("%s: outbound SA %08x is removed, it is not there", h.Name, c.SPIOut)
		}
		delete(h.Out, c.SPIOut)
	}
}

// SA is the only IKE SA of a host that is fit for use; nil when there is none or
// more than one.
func (h *Host) SA() *ikev2.SA {
	var found *ikev2.SA
	for _, sa := range h.SAs {
		if sa.State() == ikev2.Established {
			if found != nil {
				return nil
			}
			found = sa
		}
	}
	return found
}

// Happened counts events of the type of E.
func Happened[E ikev2.SAEvent](h *Host) (all []E) {
	for _, e := range h.Events {
		if x, ok := e.(E); ok {
			all = append(all, x)
		}
	}
	return all
}

// Feed gives an SA a datagram past the network.
func (h *Host) Feed(sa *ikev2.SA, d ikev2.Datagram) {
	sa.Receive(h.Net.Now, d)
	h.drain(sa)
}
