package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"iked/conf"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink"
)

// KINKPort sends and receives KINK's datagrams. Open opens the port, once; what
// arrives comes by ReceiveKINK.
type KINKPort interface {
	Transport
	Open(port uint16) error
}

// Kerberos is what KINK needs of it. Its methods are safe for concurrent use; those
// with a context ask KDCs.
type Kerberos interface {
	kink.Acceptor
	GetTicket(ctx context.Context, now time.Time, w kink.GetTicket) (kink.Ticket, error)
	GetTGT(ctx context.Context, now time.Time, client kink.Principal) ([]byte, error)
	// RealmOf is the realm of a host by its name.
	RealmOf(host string) string
}

// KerberosSetup is what a Kerberos is made of.
type KerberosSetup struct {
	Conf       string // krb5.conf; "": that of the system
	ETypes     string // names; "": those of Conf
	Identities []KerberosIdentity
}

// KerberosIdentity is an own principal with its keytab, or the cache with its
// tickets; neither: the keytab of the system.
type KerberosIdentity struct {
	Principal      kink.Principal
	Keytab, CCache string
}

// kinkState is what KINK has besides the SAs.
type kinkState struct {
	epoch  uint32
	opened bool // under loading
	// given counts the workers that get the own ticket-granting ticket for strangers.
	given atomic.Int32
	away  kinkAway
}

// kerberosState is Kerberos as the configuration has it.
type kerberosState struct {
	setup KerberosSetup
	use   Kerberos
	own   kink.Principal // that errors come from
	err   error          // why there is none
}

var errNoKerberos = errors.New("this daemon was built without Kerberos")

// kdcTime bounds how long a ticket may take.
const kdcTime = 30 * time.Second

// kdcWorkers is how many tickets are asked for at once.
const kdcWorkers = 16

// tgtWorkers is how many of them may be busy for strangers who sent GETTGT.
const tgtWorkers = 2

// epochFile keeps the epoch of the last run.
const epochFile = "kink-epoch"

// nextEpoch is the number of this run (RFC 4430, Section 3.7): the time, and greater
// than that of the run before also when the clock went back.
func nextEpoch(s Store, now time.Time, warn func(string, ...any)) uint32 {
	epoch := uint32(now.Unix())
	if s == nil {
		return epoch
	}
	b, err := s.Load(epochFile)
	if err != nil {
		warn("the epoch of the last run is not known, a peer may not notice this start: %v", err)
	}
	if len(b) == 4 {
		if last := binary.BigEndian.Uint32(b); epoch-last == 0 || epoch-last > 1<<31 {
			epoch = last + 1
		}
	}
	if err := s.Save(epochFile, binary.BigEndian.AppendUint32(nil, epoch)); err != nil {
		warn("the epoch of this run cannot be kept: %v", err)
	}
	return epoch
}

// KerberosOf is what the connections of KINK want of Kerberos.
func KerberosOf(g *conf.Global, list []*conf.Connection) KerberosSetup {
	s := KerberosSetup{Conf: g.Krb5Conf, ETypes: g.ETypes}
	for _, c := range list {
		if c.Version != conf.VersionKINK {
			continue
		}
		a := c.Local[0]
		own, err := kink.ParsePrincipal(a.ID.Data)
		if err != nil {
			continue
		}
		id := KerberosIdentity{Principal: own, Keytab: a.Keytab, CCache: a.CCache}
		if !slices.Contains(s.Identities, id) {
			s.Identities = append(s.Identities, id)
		}
	}
	return s
}

// setupKINK opens the port and prepares Kerberos for the connections of a program. A
// fault keeps no other connection from working; it is told when KINK is needed. The
// caller holds loading.
func (e *Engine) setupKINK(p *program) {
	list := make([]*conf.Connection, len(p.order))
	for i, c := range p.order {
		list[i] = c.conf
	}
	setup := KerberosOf(&p.global, list)
	old := e.kerberos.Load()
	if len(setup.Identities) == 0 {
		e.kerberos.Store(nil)
		return
	}
	if !e.kink.opened {
		if err := e.openKINK(p.global.PortKINK); err != nil {
			e.fail(trace.Failure{At: time.Now(), Stage: trace.StageConfig, Sentence: fmt.Sprintf("KINK cannot be spoken: %v", err),
				Advice: "stop what holds the port, then `ikectl reload`; or set port_kink here and remote_port at the peers, and restart the daemon"}, 0)
		}
	}
	if old != nil && old.err == nil && old.setup.Conf == setup.Conf && old.setup.ETypes == setup.ETypes && slices.Equal(old.setup.Identities, setup.Identities) {
		return
	}
	next := &kerberosState{setup: setup, own: setup.Identities[0].Principal, err: errNoKerberos}
	if e.opt.Kerberos != nil {
		next.use, next.err = e.opt.Kerberos(setup)
	}
	if next.err != nil {
		e.fail(trace.Failure{At: time.Now(), Stage: trace.StageConfig, Sentence: fmt.Sprintf("Kerberos cannot be used: %v", next.err),
			Advice: "see keytab and ccache of the connections, and krb5_conf; then `ikectl reload`"}, 0)
	}
	e.kerberos.Store(next)
}

func (e *Engine) openKINK(port uint16) error {
	if e.opt.KINK == nil {
		return errors.New("there is no port for it")
	}
	if err := e.opt.KINK.Open(orPort(port, 910)); err != nil {
		return err
	}
	e.kink.opened = true
	return nil
}

// kinkSA lets the engine drive a kink.SA.
type kinkSA struct{ *kink.SA }

// Identify implements facts. There is no SPI: the peer's messages find the SA by its
// principal and the number of a transaction.
func (m kinkSA) Identify() identity { return identity{ID: m.UniqueID()} }

// Look implements facts.
func (m kinkSA) Look() SAInfo { return lookOf(m.Status()) }

// kinkEnv is env with the epoch.
type kinkEnv struct{ env }

// Epoch implements kink.Env.
func (v kinkEnv) Epoch() uint32 { return v.e.kink.epoch }

func (e *Engine) kinkEnv() kinkEnv { return kinkEnv{env{e, keyex.VersionKINK}} }

func (e *Engine) newInitiatorKINK(cfg *keyex.Config, peer kink.Principal, local, remote netip.AddrPort) machine {
	return kinkSA{kink.NewInitiator(e.kinkEnv(), cfg, peer, local, remote)}
}

// kinkPeer is the principal at an address, for who begins. The configuration names
// it, or the DNS name of the peer does: that of remote_addrs, or the one that the
// address has, if that name in turn has the address. Which principal is there is
// proven by its ticket then.
func (e *Engine) kinkPeer(c *conf.Connection, remote netip.Addr) (kink.Principal, error) {
	pattern, err := kink.ParsePattern(c.Remote[0].ID.Data)
	if err != nil {
		return kink.Principal{}, err
	}
	if p, one := pattern.Exact(); one {
		return p, nil
	}
	var names []string
	for _, h := range c.RemoteAddrs {
		if h.Name != "" {
			names = append(names, h.Name)
		}
	}
	if len(names) == 0 {
		if names, err = e.reverse(remote); err != nil {
			return kink.Principal{}, err
		}
	}
	var tried []string
	for _, name := range names {
		addrs, err := e.lookUp(name)
		if err != nil || !slices.Contains(addrs, remote) {
			tried = append(tried, name+" has not the address "+remote.String())
			continue
		}
		p, err := e.principalOf(name, pattern)
		if err == nil {
			return p, nil
		}
		tried = append(tried, err.Error())
	}
	return kink.Principal{}, fmt.Errorf("no principal for %s by %s: %v", remote, pattern, tried)
}
