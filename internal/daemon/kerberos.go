package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"iked/conf"
	"iked/internal/engine"
	"iked/internal/trace"
	"iked/kink/krb"
)

// kerberos is kink/krb for the engine.
type kerberos struct {
	*krb.Client
	*krb.Acceptor
	conf *krb.Conf
}

// RealmOf implements engine.Kerberos.
func (k *kerberos) RealmOf(host string) string { return k.conf.RealmOf(host) }

// Panics counts the faults of the Kerberos library that were contained.
func (k *kerberos) Panics() uint64 { return krb.Panics() }

// kerberos makes what the configuration wants. KDCs are asked beside the tunnels, as
// name servers are: without them no tunnel comes up. A keytab that is not there yet is a
// warning: it is read when it comes.
func (d *process) kerberos(s engine.KerberosSetup) (engine.Kerberos, error) {
	now := time.Now()
	conf, ids, etypes, err := readKerberos(s, now, func(format string, args ...any) { d.log.warn(trace.CFG, format, args...) })
	if err != nil {
		return nil, err
	}
	k := &kerberos{conf: conf}
	k.Client = krb.NewClient(krb.Options{Conf: conf, KDC: krb.NewNetwork(conf).Through(markedResolver(d.mark()), marked(d.mark())), Identities: ids, ETypes: etypes})
	replay, err := d.replayCache(now, conf)
	if err != nil {
		return nil, err
	}
	k.Acceptor = krb.NewAcceptor(krb.AcceptorOptions{Identities: ids, Client: k.Client, Replay: replay, Conf: conf, ETypes: etypes})
	return k, nil
}

// readKerberos reads what the configuration names, and warns of what is not as it
// should be.
func readKerberos(s engine.KerberosSetup, now time.Time, warn func(string, ...any)) (c *krb.Conf, ids []krb.Identity, etypes []int32, err error) {
	if c, err = krb.LoadConf(pick(s.Conf, krb.DefaultConf)); err != nil {
		return nil, nil, nil, err
	}
	for _, n := range c.Notes {
		warn("%s", n)
	}
	if s.ETypes != "" {
		if etypes, err = krb.ETypes(s.ETypes); err != nil {
			return nil, nil, nil, err
		}
	}
	for _, i := range s.Identities {
		id := krb.Identity{Principal: i.Principal, CCache: i.CCache}
		file := i.CCache
		if file == "" {
			file = pick(i.Keytab, c.DefaultKeytab)
			if id.Keytab, err = krb.OpenKeytab(file, now); err != nil {
				return nil, nil, nil, err
			}
			if err := id.Keytab.Problem(); err != nil {
				warn("%v", err)
			}
		}
		if st, err := os.Stat(file); err == nil && st.Mode().Perm()&0o007 != 0 {
			warn("%s can be read or written by every user (mode %04o): whoever does is %s; chmod 600 %[1]s", file, st.Mode().Perm(), i.Principal)
		}
		ids = append(ids, id)
	}
	return c, ids, etypes, nil
}

// checkKerberos says what Kerberos would be made of, for --check. No KDC is asked.
func checkKerberos(o *Options, c *conf.Config) error {
	s := engine.KerberosOf(&c.Global, c.Connections)
	if len(s.Identities) == 0 {
		return nil
	}
	if _, _, _, err := readKerberos(s, time.Now(), func(format string, args ...any) {
		fmt.Fprintf(o.Stderr, "warning: "+format+"\n", args...)
	}); err != nil {
		fmt.Fprintf(o.Stderr, "Kerberos cannot be used: %v\n", err)
		return ErrConfig
	}
	return nil
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
