package engine

import (
	"context"
	"errors"
	"fmt"

	"iked/conf"
	"iked/internal/pki"
)

// sources are the objects of the configuration by where they came from: the file,
// and the control protocol. They never mix: a reload of the file leaves what came
// over the control protocol alone, and the other way round.
type sources struct {
	file *conf.Config
	vici conf.Config
}

// Apply puts the configuration of the file into force and tells what changed.
// What did not change is not touched.
func (e *Engine) Apply(ctx context.Context, cfg *conf.Config) (conf.Changes, error) {
	e.loading.Lock()
	defer e.loading.Unlock()
	return e.apply(ctx, cfg, false)
}

// Reload reads the configuration again and puts it into force. With dryRun it
// only tells what would change. When the configuration is faulty, the error says
// all that is wrong, and what is in force stays in force. The lines say what
// changes, for people.
func (e *Engine) Reload(ctx context.Context, dryRun bool) ([]string, error) {
	if e.opt.Load == nil {
		return nil, errors.New("there is no configuration file to reload")
	}
	e.loading.Lock()
	defer e.loading.Unlock()
	cfg, err := e.opt.Load()
	if err != nil {
		return nil, err
	}
	changes, err := e.apply(ctx, cfg, dryRun)
	return changes.Lines(), err
}

func (e *Engine) apply(ctx context.Context, cfg *conf.Config, dryRun bool) (conf.Changes, error) {
	loaded := make(map[string]bool, len(e.src.vici.Connections))
	for _, v := range e.src.vici.Connections {
		loaded[v.Name] = true
	}
	for _, c := range cfg.Connections {
		if loaded[c.Name] {
			return conf.Changes{}, fmt.Errorf("connection %s: one of that name was loaded over the control protocol; unload it first, or rename one of the two", c.Name)
		}
		if err := e.unfit(c); err != nil {
			return conf.Changes{}, err
		}
	}
	changes := conf.Diff(e.src.file, cfg)
	if dryRun {
		return changes, nil
	}
	next := *cfg
	if e.src.file != nil {
		// Unchanged connections stay the same object.
		old := make(map[string]*conf.Connection, len(e.src.file.Connections))
		for _, c := range e.src.file.Connections {
			old[c.Name] = c
		}
		keep := make(map[*conf.Connection]bool, len(changes.Same))
		for _, c := range changes.Same {
			keep[c] = true
		}
		next.Connections = make([]*conf.Connection, len(cfg.Connections))
		for i, c := range cfg.Connections {
			if keep[c] {
				c = old[c.Name]
			}
			next.Connections[i] = c
		}
	}
	e.src.file = &next
	return changes, e.enforce(ctx)
}

// enforce makes a program of the sources and puts it into force. The caller
// holds loading.
func (e *Engine) enforce(ctx context.Context) error {
	g := conf.Global{}
	var fromFile, fromVICI []*connProgram
	if e.src.file != nil {
		g = e.src.file.Global
		for _, c := range e.src.file.Connections {
			fromFile = append(fromFile, &connProgram{conf: c})
		}
	}
	for _, c := range e.src.vici.Connections {
		fromVICI = append(fromVICI, &connProgram{conf: c, vici: true})
	}
	old := e.config.Load()
	p := buildProgram(g, old, e.fit, fromFile, fromVICI)
	var pools []*conf.Pool
	if e.src.file != nil {
		pools = append(pools, e.src.file.Pools...)
		p.radius = e.src.file.Radius
	}
	pools = append(pools, e.src.vici.Pools...)
	e.pools.set(pools)
	e.loadCreds()
	e.setupKINK(p)
	e.config.Store(p)
	e.keepKM(p)
	if p.kink {
		e.known.greet(p)
	}
	e.addressesChanged()
	for name := range old.conns {
		if p.conns[name] == nil {
			e.failures.forget(name)
		}
	}
	if err := e.sup.wait(ctx, func() { e.sup.program(p) }); err != nil {
		return err
	}
	e.homesTaken(p)
	return nil
}

// credentialSet collects what is trusted and owned. The caller holds loading.
func (e *Engine) credentialSet() pki.StoreConfig {
	var s pki.StoreConfig
	add := func(c *conf.Config) {
		for _, x := range c.Certs {
			if x.CA {
				s.Anchors = append(s.Anchors, x.Cert)
			} else {
				s.Certs = append(s.Certs, x.Cert)
			}
		}
		for _, a := range c.Authorities {
			if a.CACert != nil {
				s.Anchors = append(s.Anchors, a.CACert)
			}
		}
		for _, k := range c.Keys {
			s.Keys = append(s.Keys, k.Key)
		}
		for _, r := range c.CRLs {
			s.CRLs = append(s.CRLs, r.CRL)
		}
		for _, conn := range c.Connections {
			for _, a := range conn.Local {
				s.Certs = append(s.Certs, a.Certs...)
			}
			for _, a := range conn.Remote {
				for _, ca := range a.CACerts {
					if !ca.IsCA() {
						s.Certs = append(s.Certs, ca)
					}
				}
			}
		}
	}
	if e.src.file != nil {
		add(e.src.file)
		s.MinRSA = e.src.file.MinRSABits
	}
	add(&e.src.vici)
	return s
}

func (e *Engine) loadCreds() {
	var secrets []*conf.Secret
	if e.src.file != nil {
		secrets = append(secrets, e.src.file.Secrets...)
	}
	e.store.set(append(secrets, e.src.vici.Secrets...), e.credentialSet())
}

// Config is the configuration of the file in force, nil when there is none.
func (e *Engine) Config() *conf.Config {
	e.loading.Lock()
	defer e.loading.Unlock()
	return e.src.file
}
