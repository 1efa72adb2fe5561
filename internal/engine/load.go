package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

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

// Change is one line of what a reload does.
type Change struct {
	Kind string // connection, child, secrets, certificates, pool, authority, global
	Name string
	What string // add, remove, change, keep
	Note string // what follows for SAs that are up
}

func (c Change) String() string {
	s := c.What + " " + c.Kind
	if c.Name != "" {
		s += " " + c.Name
	}
	if c.Note != "" {
		s += " (" + c.Note + ")"
	}
	return s
}

// Apply puts the configuration of the file into force. What did not change is
// not touched.
func (e *Engine) Apply(ctx context.Context, cfg *conf.Config) ([]Change, error) {
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
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.String()
	}
	return lines, err
}

func (e *Engine) apply(ctx context.Context, cfg *conf.Config, dryRun bool) ([]Change, error) {
	for _, c := range cfg.Connections {
		if slices.ContainsFunc(e.src.vici.Connections, func(v *conf.Connection) bool { return v.Name == c.Name }) {
			return nil, fmt.Errorf("connection %s: one of that name was loaded over the control protocol; unload it first, or rename one of the two", c.Name)
		}
	}
	before := e.src.file
	if before == nil {
		before = &conf.Config{}
	}
	// Unchanged connections stay the same object.
	conns := make([]*conf.Connection, len(cfg.Connections))
	var changes []Change
	for i, c := range cfg.Connections {
		conns[i] = c
		j := slices.IndexFunc(before.Connections, func(o *conf.Connection) bool { return o.Name == c.Name })
		if j < 0 {
			changes = append(changes, Change{Kind: "connection", Name: c.Name, What: "add"})
			continue
		}
		old := before.Connections[j]
		if same(old, c) && before.Global == cfg.Global {
			conns[i] = old
			continue
		}
		changes = append(changes, diffConn(old, c)...)
	}
	for _, o := range before.Connections {
		if !slices.ContainsFunc(cfg.Connections, func(c *conf.Connection) bool { return c.Name == o.Name }) {
			changes = append(changes, Change{Kind: "connection", Name: o.Name, What: "remove", Note: removalNote(o)})
		}
	}
	changes = append(changes, diffRest(before, cfg)...)
	if dryRun {
		return changes, nil
	}
	next := *cfg
	next.Connections = conns
	e.src.file = &next
	return changes, e.enforce(ctx)
}

func removalNote(c *conf.Connection) string {
	for _, ch := range c.Children {
		if startAction(ch) != 0 {
			return "its SAs are closed"
		}
	}
	return "SAs that are up stay up"
}

func diffConn(old, c *conf.Connection) []Change {
	if !sameIKE(old, c) {
		return []Change{{Kind: "connection", Name: c.Name, What: "change", Note: "its SAs are set up anew"}}
	}
	var out []Change
	for _, ch := range c.Children {
		name := c.Name + "/" + ch.Name
		j := slices.IndexFunc(old.Children, func(o *conf.Child) bool { return o.Name == ch.Name })
		switch {
		case j < 0:
			out = append(out, Change{Kind: "child", Name: name, What: "add"})
		case !same(old.Children[j], ch):
			out = append(out, Change{Kind: "child", Name: name, What: "change", Note: "its SAs are set up anew"})
		}
	}
	for _, o := range old.Children {
		if !slices.ContainsFunc(c.Children, func(ch *conf.Child) bool { return ch.Name == o.Name }) {
			out = append(out, Change{Kind: "child", Name: c.Name + "/" + o.Name, What: "remove"})
		}
	}
	return out
}

func diffRest(old, now *conf.Config) []Change {
	var out []Change
	if !same(old.Global, now.Global) {
		note := ""
		if old.Port != now.Port || old.PortNATT != now.PortNATT || old.Backend != now.Backend || old.Datapath != now.Datapath {
			note = "ports, backend and datapath need a restart"
		}
		out = append(out, Change{Kind: "global", What: "change", Note: note})
	}
	if !same(old.Secrets, now.Secrets) {
		out = append(out, Change{Kind: "secrets", What: "change"})
	}
	if len(old.Keys) != len(now.Keys) || !same(old.Certs, now.Certs) || len(old.CRLs) != len(now.CRLs) || !sameKeys(old.Keys, now.Keys) {
		out = append(out, Change{Kind: "certificates", What: "change"})
	}
	if !same(old.Pools, now.Pools) {
		out = append(out, Change{Kind: "pools", What: "change"})
	}
	if !same(old.Authorities, now.Authorities) {
		out = append(out, Change{Kind: "authorities", What: "change"})
	}
	return out
}

func sameKeys(a, b []*conf.Key) bool {
	return slices.EqualFunc(a, b, func(x, y *conf.Key) bool { return x.Key.KeyID == y.Key.KeyID })
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
	p := buildProgram(g, old, fromFile, fromVICI)
	var pools []*conf.Pool
	if e.src.file != nil {
		pools = append(pools, e.src.file.Pools...)
	}
	pools = append(pools, e.src.vici.Pools...)
	e.pools.set(pools)
	e.loadCreds()
	e.config.Store(p)
	for name := range old.conns {
		if p.conns[name] == nil {
			e.failures.forget(name)
		}
	}
	return e.sup.wait(ctx, func() { e.sup.program(p) })
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
