package engine

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"iked/conf"
	"iked/internal/pki"
)

// The methods here load and unload objects one by one, as the control protocol
// does. They keep them apart from those of the file.

// LoadConn loads a connection, or replaces the one of the same name that was
// loaded this way.
func (e *Engine) LoadConn(ctx context.Context, c *conf.Connection) error {
	e.loading.Lock()
	defer e.loading.Unlock()
	if e.src.file != nil && slices.ContainsFunc(e.src.file.Connections, func(o *conf.Connection) bool { return o.Name == c.Name }) {
		return fmt.Errorf("connection %s is in %s and cannot be loaded over the control protocol", c.Name, e.src.file.File)
	}
	if err := e.unfit(c); err != nil {
		return err
	}
	v := &e.src.vici
	if i := slices.IndexFunc(v.Connections, func(o *conf.Connection) bool { return o.Name == c.Name }); i >= 0 {
		if d := conf.DiffConnection(v.Connections[i], c); d.Empty() {
			return nil
		}
		v.Connections = slices.Clone(v.Connections)
		v.Connections[i] = c
	} else {
		v.Connections = append(slices.Clone(v.Connections), c)
	}
	return e.enforce(ctx)
}

// UnloadConn undoes LoadConn.
func (e *Engine) UnloadConn(ctx context.Context, name string) error {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	i := slices.IndexFunc(v.Connections, func(o *conf.Connection) bool { return o.Name == name })
	if i < 0 {
		return fmt.Errorf("unload: connection '%s' not found", name)
	}
	v.Connections = slices.Delete(slices.Clone(v.Connections), i, i+1)
	return e.enforce(ctx)
}

// Conns are the names of the connections that LoadConn loaded.
func (e *Engine) Conns() []string {
	e.loading.Lock()
	defer e.loading.Unlock()
	var out []string
	for _, c := range e.src.vici.Connections {
		out = append(out, c.Name)
	}
	return out
}

// LoadShared loads a shared secret. One of the same name, or without a name an
// equal one, is replaced.
func (e *Engine) LoadShared(s *conf.Secret) {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	i := slices.IndexFunc(v.Secrets, func(o *conf.Secret) bool {
		if s.Name != "" || o.Name != "" {
			return s.Name == o.Name
		}
		return conf.SameSecret(s, o)
	})
	v.Secrets = slices.Clone(v.Secrets)
	if i >= 0 {
		v.Secrets[i] = s
	} else {
		v.Secrets = append(v.Secrets, s)
	}
	e.loadCreds()
}

// UnloadShared drops the secret of a name; there need be none.
func (e *Engine) UnloadShared(name string) {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	v.Secrets = slices.DeleteFunc(slices.Clone(v.Secrets), func(o *conf.Secret) bool { return o.Name == name && name != "" })
	e.loadCreds()
}

// Shared are the names of the secrets that LoadShared loaded and that have one.
func (e *Engine) Shared() []string {
	e.loading.Lock()
	defer e.loading.Unlock()
	var out []string
	for _, s := range e.src.vici.Secrets {
		if s.Name != "" {
			out = append(out, s.Name)
		}
	}
	return out
}

// LoadKey loads a private key and returns its id: 40 hexadecimal digits.
func (e *Engine) LoadKey(k *pki.Key) string {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	if !slices.ContainsFunc(v.Keys, func(o *conf.Key) bool { return o.Key.KeyID == k.KeyID }) {
		v.Keys = append(slices.Clone(v.Keys), &conf.Key{Key: k})
		e.loadCreds()
	}
	return keyIDText(k.KeyID)
}

// UnloadKey drops the key of an id.
func (e *Engine) UnloadKey(id string) error {
	raw, err := hex.DecodeString(strings.TrimSpace(id))
	if err != nil || len(raw) != 20 {
		return fmt.Errorf("key id %q is not 40 hexadecimal digits", id)
	}
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	n := len(v.Keys)
	v.Keys = slices.DeleteFunc(slices.Clone(v.Keys), func(k *conf.Key) bool { return bytes.Equal(k.Key.KeyID[:], raw) })
	if len(v.Keys) == n {
		return fmt.Errorf("key not found")
	}
	e.loadCreds()
	return nil
}

// Keys are the ids of the keys that LoadKey loaded.
func (e *Engine) Keys() []string {
	e.loading.Lock()
	defer e.loading.Unlock()
	var out []string
	for _, k := range e.src.vici.Keys {
		out = append(out, keyIDText(k.Key.KeyID))
	}
	return out
}

// LoadCert loads a certificate. A CA certificate becomes a trust anchor.
func (e *Engine) LoadCert(c *pki.Cert) {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	if slices.ContainsFunc(v.Certs, func(o *conf.Cert) bool { return o.Cert.Equal(c) }) {
		return
	}
	v.Certs = append(slices.Clone(v.Certs), &conf.Cert{Cert: c, CA: c.IsCA()})
	e.loadCreds()
}

// LoadCRL loads a certificate revocation list; one of the same issuer that is
// older is replaced.
func (e *Engine) LoadCRL(r *pki.CRL) {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	v.CRLs = slices.DeleteFunc(slices.Clone(v.CRLs), func(o *conf.CRL) bool {
		return bytes.Equal(o.CRL.List.RawIssuer, r.List.RawIssuer) && !o.CRL.List.ThisUpdate.After(r.List.ThisUpdate)
	})
	v.CRLs = append(v.CRLs, &conf.CRL{CRL: r})
	e.loadCreds()
}

// ClearCreds drops all certificates, keys and secrets that were loaded here, but
// no authorities, and what was received from peers.
func (e *Engine) ClearCreds() {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	v.Certs, v.Keys, v.Secrets, v.CRLs = nil, nil, nil, nil
	e.loadCreds()
	e.store.cache.Flush()
}

// LoadAuthority loads a CA with what belongs to it.
func (e *Engine) LoadAuthority(a *conf.Authority) {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	v.Authorities = slices.DeleteFunc(slices.Clone(v.Authorities), func(o *conf.Authority) bool { return o.Name == a.Name })
	v.Authorities = append(v.Authorities, a)
	e.loadCreds()
}

// UnloadAuthority undoes LoadAuthority.
func (e *Engine) UnloadAuthority(name string) error {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	n := len(v.Authorities)
	v.Authorities = slices.DeleteFunc(slices.Clone(v.Authorities), func(o *conf.Authority) bool { return o.Name == name })
	if len(v.Authorities) == n {
		return fmt.Errorf("unload: certification authority '%s' not found", name)
	}
	e.loadCreds()
	return nil
}

// Authorities lists the CAs; onlyVICI those that LoadAuthority loaded.
func (e *Engine) Authorities(onlyVICI bool) []*conf.Authority {
	e.loading.Lock()
	defer e.loading.Unlock()
	var out []*conf.Authority
	if !onlyVICI && e.src.file != nil {
		out = append(out, e.src.file.Authorities...)
	}
	return append(out, e.src.vici.Authorities...)
}

// LoadPool loads a pool of virtual addresses. One of the same name with another
// range cannot be replaced while addresses of it are in use.
func (e *Engine) LoadPool(ctx context.Context, p *conf.Pool) error {
	e.loading.Lock()
	defer e.loading.Unlock()
	if e.src.file != nil && slices.ContainsFunc(e.src.file.Pools, func(o *conf.Pool) bool { return o.Name == p.Name }) {
		return fmt.Errorf("pool %s is in %s and cannot be loaded over the control protocol", p.Name, e.src.file.File)
	}
	v := &e.src.vici
	i := slices.IndexFunc(v.Pools, func(o *conf.Pool) bool { return o.Name == p.Name })
	if i >= 0 && (v.Pools[i].Base != p.Base || v.Pools[i].Size != p.Size) && e.pools.online(p.Name) > 0 {
		return fmt.Errorf("vici pool %s has online leases, unable to replace", p.Name)
	}
	v.Pools = slices.Clone(v.Pools)
	if i >= 0 {
		v.Pools[i] = p
	} else {
		v.Pools = append(v.Pools, p)
	}
	return e.enforce(ctx)
}

// UnloadPool undoes LoadPool.
func (e *Engine) UnloadPool(ctx context.Context, name string) error {
	e.loading.Lock()
	defer e.loading.Unlock()
	v := &e.src.vici
	i := slices.IndexFunc(v.Pools, func(o *conf.Pool) bool { return o.Name == name })
	if i < 0 {
		return fmt.Errorf("%s not found", name)
	}
	if e.pools.online(name) > 0 {
		return fmt.Errorf("%s has online leases, unable to unload", name)
	}
	v.Pools = slices.Delete(slices.Clone(v.Pools), i, i+1)
	return e.enforce(ctx)
}

// PoolNames are the names of the pools that LoadPool loaded.
func (e *Engine) PoolNames() []string {
	e.loading.Lock()
	defer e.loading.Unlock()
	var out []string
	for _, p := range e.src.vici.Pools {
		out = append(out, p.Name)
	}
	return out
}
