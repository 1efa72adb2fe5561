package daemon

import (
	"path/filepath"
	"time"

	"iked/internal/engine"
	"iked/internal/trace"
	"iked/kink/krb"
)

// kerberos is kink/krb for the engine.
type kerberos struct {
	*krb.Client
	*krb.Acceptor
	conf   *krb.Conf
	replay *krb.Replay
}

// RealmOf implements engine.Kerberos.
func (k *kerberos) RealmOf(host string) string { return k.conf.RealmOf(host) }

// Close implements engine.Kerberos.
func (k *kerberos) Close() {}

// kerberos makes what the configuration wants. KDCs are asked beside the tunnels, as
// name servers are: without them no tunnel comes up. A keytab that is not there yet is a
// warning: it is read when it comes.
func (d *process) kerberos(s engine.KerberosSetup) (engine.Kerberos, error) {
	now := time.Now()
	conf, err := krb.LoadConf(pick(s.Conf, krb.DefaultConf))
	if err != nil {
		return nil, err
	}
	for _, n := range conf.Notes {
		d.log.warn(trace.CFG, "%s", n)
	}
	k := &kerberos{conf: conf}
	var etypes []int32
	if s.ETypes != "" {
		if etypes, err = krb.ETypes(s.ETypes); err != nil {
			return nil, err
		}
	}
	var ids []krb.Identity
	for _, i := range s.Identities {
		id := krb.Identity{Principal: i.Principal, CCache: i.CCache}
		if i.CCache == "" {
			if id.Keytab, err = krb.OpenKeytab(pick(i.Keytab, conf.DefaultKeytab), now); err != nil {
				return nil, err
			}
			if err := id.Keytab.Problem(); err != nil {
				d.log.warn(trace.CFG, "%v", err)
			}
		}
		ids = append(ids, id)
	}
	k.Client = krb.NewClient(krb.Options{Conf: conf, KDC: krb.NewNetwork(conf).Through(markedResolver(d.mark()), marked(d.mark())), Identities: ids, ETypes: etypes})
	if k.replay, err = d.replayCache(now, conf); err != nil {
		return nil, err
	}
	k.Acceptor = krb.NewAcceptor(krb.AcceptorOptions{Identities: ids, Client: k.Client, Replay: k.replay, Conf: conf, ETypes: etypes})
	return k, nil
}

// replayCache is one for the life of the daemon: a new configuration forgets nothing.
func (d *process) replayCache(now time.Time, conf *krb.Conf) (*krb.Replay, error) {
	if d.replay != nil {
		return d.replay, nil
	}
	path := ""
	if d.state != nil && d.state.dir != "" {
		path = filepath.Join(d.state.dir, "kink-replay")
	}
	r, err := krb.OpenReplay(path, now, conf.ClockSkew)
	if err != nil {
		return nil, err
	}
	if err := r.Problem(); err != nil {
		d.log.warn(trace.DMN, "%v", err)
	}
	d.replay = r
	return r, nil
}
