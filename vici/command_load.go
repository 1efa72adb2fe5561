package vici

import (
	"strconv"

	"iked/conf"
	"iked/vici/wire"
)

// errParse is the answer to a change whose request does not parse to its end.
const errParse = "parsing request failed"

// change wraps a command that changes something: a request that is cut or
// malformed is refused as a whole.
func change(h handler) handler {
	return func(c *call) wire.Message {
		if c.bad != nil {
			return failure(errParse)
		}
		return h(c)
	}
}

// loads registers what loads and unloads configuration and credentials.
func (s *Server) loads() {
	for name, h := range map[string]handler{
		"load-conn":        s.loadConn,
		"unload-conn":      s.unloadConn,
		"load-pool":        s.loadPool,
		"unload-pool":      s.unloadPool,
		"load-authority":   s.loadAuthority,
		"unload-authority": s.unloadAuthority,
		"load-cert":        s.loadCert,
		"load-key":         s.loadKey,
		"unload-key":       s.unloadKey,
		"load-shared":      s.loadShared,
		"unload-shared":    s.unloadShared,
		"clear-creds":      func(*call) wire.Message { s.engine.ClearCreds(); return success() },
		"flush-certs":      func(*call) wire.Message { s.engine.FlushCerts(); return success() },
	} {
		s.commands[name] = change(h)
	}
	s.commands["get-conns"] = func(*call) wire.Message { return names("conns", s.engine.Conns()) }
	s.commands["get-keys"] = func(*call) wire.Message { return names("keys", s.engine.Keys()) }
	s.commands["get-shared"] = func(*call) wire.Message { return names("keys", s.engine.Shared()) }
	s.commands["get-authorities"] = func(*call) wire.Message {
		var list []string
		for _, a := range s.engine.Authorities(true) {
			list = append(list, a.Name)
		}
		return names("authorities", list)
	}
	s.commands["get-pools"] = s.getPools
	s.commands["list-authorities"] = s.listAuthorities
}

func names(key string, list []string) wire.Message {
	var m wire.Message
	m.SetList(key, list...)
	return m
}

// loadConn loads connections in order and stops at the first that is refused:
// those before it stay loaded.
func (s *Server) loadConn(c *call) wire.Message {
	conns, err := conf.LoadConns(tree("", c.req))
	for _, cn := range conns {
		if lerr := s.engine.LoadConn(s.ctx, cn); lerr != nil {
			return failure(lerr.Error())
		}
	}
	return verdict(err)
}

func (s *Server) unloadConn(c *call) wire.Message {
	name, ok := c.req.Text("name")
	if !ok {
		return failure("unload: missing connection name")
	}
	return verdict(s.engine.UnloadConn(s.ctx, name))
}

func (s *Server) loadPool(c *call) wire.Message {
	pools, err := conf.LoadPools(tree("", c.req))
	for _, p := range pools {
		if lerr := s.engine.LoadPool(s.ctx, p); lerr != nil {
			return failure(lerr.Error())
		}
	}
	return verdict(err)
}

func (s *Server) unloadPool(c *call) wire.Message {
	name, ok := c.req.Text("name")
	if !ok {
		return failure("unload: missing pool name")
	}
	return verdict(s.engine.UnloadPool(s.ctx, name))
}

func (s *Server) loadAuthority(c *call) wire.Message {
	list, err := conf.LoadAuthorities(tree("", c.req))
	for _, a := range list {
		s.engine.LoadAuthority(a)
	}
	return verdict(err)
}

func (s *Server) unloadAuthority(c *call) wire.Message {
	name, ok := c.req.Text("name")
	if !ok {
		return failure("unload: missing certification authority name")
	}
	return verdict(s.engine.UnloadAuthority(name))
}

func (s *Server) loadCert(c *call) wire.Message {
	data, _ := c.req.Bytes("data")
	kind, err := conf.LoadCert(text(c.req, "type"), text(c.req, "flag"), data)
	if err != nil {
		return failure(err.Error())
	}
	if kind.Cert != nil {
		s.engine.LoadCert(kind.Cert)
	}
	if kind.CRL != nil {
		s.engine.LoadCRL(kind.CRL)
	}
	return success()
}

func (s *Server) loadKey(c *call) wire.Message {
	data, _ := c.req.Bytes("data")
	k, err := conf.LoadKey(text(c.req, "type"), data)
	if err != nil {
		return failure(err.Error())
	}
	m := success()
	m.Set("id", s.engine.LoadKey(k))
	return m
}

func (s *Server) unloadKey(c *call) wire.Message {
	id, ok := c.req.Text("id")
	if !ok {
		return failure("key id missing")
	}
	return verdict(s.engine.UnloadKey(id))
}

func (s *Server) loadShared(c *call) wire.Message {
	sh, err := conf.LoadShared(tree("", c.req))
	if err != nil {
		return failure(err.Error())
	}
	s.engine.LoadShared(sh)
	return success()
}

func (s *Server) unloadShared(c *call) wire.Message {
	id, ok := c.req.Text("id")
	if !ok {
		return failure("unload: missing secret id")
	}
	s.engine.UnloadShared(id)
	return success()
}

func (s *Server) getPools(c *call) wire.Message {
	var m wire.Message
	withLeases := c.req.Bool("leases", false)
	for _, p := range s.engine.Pools(text(c.req, "name"), withLeases) {
		var sec, leases wire.Message
		sec.Set("base", p.Base.String())
		sec.SetUint("size", p.Size)
		sec.SetInt("online", int64(p.Online))
		sec.SetInt("offline", int64(p.Offline))
		if withLeases {
			for i, l := range p.Leases {
				var one wire.Message
				one.Set("address", l.Addr.String())
				one.Set("identity", printable(l.Peer.String()))
				status := "offline"
				if l.Online {
					status = "online"
				}
				one.Set("status", status)
				leases.SetSection(strconv.Itoa(i), one)
			}
			sec.SetSection("leases", leases)
		}
		m.SetSection(p.Name, sec)
	}
	return m
}

func (s *Server) listAuthorities(c *call) wire.Message {
	want := text(c.req, "name")
	for _, a := range s.engine.Authorities(false) {
		if want != "" && want != a.Name {
			continue
		}
		var m, sec wire.Message
		if a.CACert != nil {
			sec.Set("cacert", printable(a.CACert.Name()))
		}
		sec.SetList("crl_uris", a.CRLURIs...)
		sec.SetList("ocsp_uris", a.OCSPURIs...)
		sec.SetIf("cert_uri_base", a.CertURIBase)
		m.SetSection(a.Name, sec)
		c.event(evListAuth, m)
	}
	return nil
}
