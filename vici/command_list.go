package vici

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"iked/conf"
	"iked/internal/engine"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/pki"
	"iked/spd"
	"iked/vici/wire"
)

// lists registers what lists configuration and state.
func (s *Server) lists() {
	s.commands["list-sas"] = s.listSAs
	s.commands["list-conns"] = s.listConns
	s.commands["list-policies"] = s.listPolicies
	s.commands["list-certs"] = s.listCerts
}

func (s *Server) listSAs(c *call) wire.Message {
	f, err := selector(c.req)
	if err != nil {
		return nil // a filter that cannot match lists nothing
	}
	sas, err := s.engine.ListSAs(s.ctx, engine.SAFilter{IKE: f.IKE, IKEID: f.IKEID, Child: f.Child, ChildID: f.ChildID})
	if err != nil {
		s.logf(true, "control: list-sas is not complete: %v", err)
	}
	now := time.Now()
	for i := range sas {
		var m wire.Message
		m.SetSection(sas[i].Conn, withChildren(ikeSection(&sas[i], now), sas[i].Children, now))
		c.event(evListSA, m)
	}
	return nil
}

func (s *Server) listConns(c *call) wire.Message {
	conns, err := s.engine.ListConns(s.ctx, text(c.req, "ike"))
	if err != nil {
		s.logf(true, "control: list-conns is not complete: %v", err)
	}
	for i := range conns {
		var m wire.Message
		section := connSection(conns[i].Conf)
		if k := conns[i].KM; k != nil {
			section.SetList("kmaddress", k.Local.String(), k.Remote.String())
			section.SetIf("kmaddress-unused", printable(k.Unused))
		}
		m.SetSection(conns[i].Conf.Name, section)
		c.event(evListConn, m)
	}
	return nil
}

func connSection(cn *conf.Connection) wire.Message {
	var m, children wire.Message
	m.SetList("local_addrs", hosts(cn.LocalAddrs)...)
	m.SetList("remote_addrs", hosts(cn.RemoteAddrs)...)
	m.SetUint("local_port", uint64(cn.LocalPort))
	m.SetUint("remote_port", uint64(cn.RemotePort))
	version := "IKEv" + strconv.Itoa(cn.Version)
	if cn.Version == conf.VersionKINK {
		version = "kink"
	}
	m.Set("version", version)
	m.SetInt("reauth_time", seconds(cn.ReauthTime))
	m.SetInt("rekey_time", seconds(cn.RekeyTime))
	m.Set("unique", uniqueName(cn.Unique))
	if cn.DPDDelay != 0 {
		m.SetInt("dpd_delay", seconds(cn.DPDDelay))
	}
	if cn.MobilityRole != keyex.RoleNone {
		m.Set("mobility_role", cn.MobilityRole.String())
	}
	rounds(&m, "local", cn.Local)
	rounds(&m, "remote", cn.Remote)
	for _, k := range cn.Children {
		children.SetSection(k.Name, childConfSection(k))
	}
	m.SetSection("children", children)
	return m
}

func hosts(list []conf.Host) []string {
	out := make([]string, len(list))
	for i, h := range list {
		out[i] = h.Text
	}
	if len(out) == 0 {
		out = []string{"%any"}
	}
	return out
}

func uniqueName(u conf.Unique) string {
	switch u {
	case conf.UniqueNever:
		return "UNIQUE_NEVER"
	case conf.UniqueKeep:
		return "UNIQUE_KEEP"
	case conf.UniqueReplace:
		return "UNIQUE_REPLACE"
	}
	return "UNIQUE_NO"
}

func rounds(m *wire.Message, side string, list []*conf.Auth) {
	for i, a := range list {
		var r wire.Message
		switch a.Class {
		case conf.AuthPSK:
			r.Set("class", "pre-shared key")
		case conf.AuthPubkey:
			r.Set("class", "public key")
		case conf.AuthXAuth:
			r.Set("class", "XAuth")
			r.SetIf("xauth", usersName(a.Users))
			r.SetIf("xauth_id", printable(a.User))
		}
		switch a.Revocation {
		case pki.Strict:
			r.Set("revocation", "GOOD")
		case pki.IfURI:
			r.Set("revocation", "SKIPPED")
		}
		if a.ID.Type != 0 {
			r.Set("id", printable(a.ID.String()))
		}
		if a.CAID.Type != 0 {
			r.Set("ca_id", printable(a.CAID.String()))
		}
		r.SetList("groups")
		if len(a.HomeAddresses) > 0 {
			selectors(&r, "home_addresses", a.HomeAddresses)
		}
		r.SetList("cert_policy", a.CertPolicy...)
		r.SetList("certs", subjects(a.Certs)...)
		r.SetList("cacerts", subjects(a.CACerts)...)
		m.SetSection(side+"-"+strconv.Itoa(i+1), r)
	}
}

// usersName is who knows the users, in the words of the key auth.
func usersName(u conf.Users) string {
	switch u {
	case conf.UsersRadius:
		return "radius"
	case conf.UsersHook:
		return "hook"
	}
	return ""
}

func subjects(list []*pki.Cert) []string {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = printable(c.Name())
	}
	return out
}

func childConfSection(k *conf.Child) wire.Message {
	var m wire.Message
	m.Set("mode", confMode(k.Mode))
	m.SetInt("rekey_time", seconds(k.Time.Rekey))
	m.SetUint("rekey_bytes", k.Bytes.Rekey)
	m.SetUint("rekey_packets", k.Packets.Rekey)
	m.Set("dpd_action", actionName(k.DPDAction))
	m.Set("close_action", actionName(k.CloseAction))
	m.SetIf("start", startName(k.Start))
	m.SetList("local-ts", confSelectors(k.Local)...)
	m.SetList("remote-ts", confSelectors(k.Remote)...)
	m.SetIf("interface", k.Interface)
	if k.Priority != 0 {
		m.SetUint("priority", uint64(k.Priority))
	}
	if k.OthersPolicies {
		m.Set("policies", "no")
		m.SetUint("reqid", uint64(k.ReqID))
		if k.ReqIDIn != 0 {
			m.SetUint("reqid-in", uint64(k.ReqIDIn))
		}
	}
	return m
}

func confMode(m conf.Mode) string {
	switch m {
	case conf.ModeTransport:
		return "TRANSPORT"
	case conf.ModeBEET:
		return "BEET"
	case conf.ModePass:
		return "PASS"
	case conf.ModeDrop:
		return "DROP"
	}
	return "TUNNEL"
}

func actionName(a conf.Action) string {
	var parts []string
	if a&conf.ActionTrap != 0 {
		parts = append(parts, "trap")
	}
	if a&conf.ActionStart != 0 {
		parts = append(parts, "start")
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, " | ")
}

func startName(s conf.Start) string {
	switch s {
	case conf.StartPassive:
		return "passive"
	case conf.StartOnDemand:
		return "on-demand"
	case conf.StartAlways:
		return "always"
	}
	return ""
}

func confSelectors(list []conf.TS) []string {
	out := make([]string, len(list))
	for i, t := range list {
		if !t.Dynamic {
			out[i] = t.TS.String()
			continue
		}
		// The protocol and ports of a dynamic selector print as those of any other.
		ts := t.TS
		ts.From, ts.To = anyFrom, anyTo
		_, suffix, found := strings.Cut(ts.String(), "[")
		out[i] = "dynamic"
		if found {
			out[i] += "[" + suffix
		}
	}
	return out
}

var (
	anyFrom = netip.IPv4Unspecified()
	anyTo   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

func (s *Server) listPolicies(c *call) wire.Message {
	trap, drop, pass := c.req.Has("trap"), c.req.Has("drop"), c.req.Has("pass")
	for _, p := range s.engine.ListPolicies() {
		if (text(c.req, "child") != "" && text(c.req, "child") != p.Child) || (text(c.req, "ike") != "" && text(c.req, "ike") != p.IKE) {
			continue
		}
		var sec wire.Message
		sec.Set("child", p.Child)
		mode := ""
		switch {
		case p.Action == spd.Protect && trap:
			mode = modeName(p.Mode)
			sec.SetUint("reqid", uint64(p.ReqID))
		case p.Action == spd.Bypass && pass:
			mode = "PASS"
		case p.Action == spd.Discard && drop:
			mode = "DROP"
		default:
			continue
		}
		sec.Set("ike", p.IKE)
		sec.Set("mode", mode)
		selectors(&sec, "local-ts", p.Local)
		selectors(&sec, "remote-ts", p.Remote)
		mark(&sec, "in", p.MarkIn)
		mark(&sec, "out", p.Mark)
		if p.IfID != 0 {
			sec.Set("if-id", fmt.Sprintf("%08x", p.IfID))
		}
		name := p.Child
		if p.IKE != "" {
			name = p.IKE + "/" + name
		}
		var m wire.Message
		m.SetSection(name, sec)
		c.event(evListPolicy, m)
	}
	return nil
}

func (s *Server) listCerts(c *call) wire.Message {
	want, flag := strings.ToUpper(text(c.req, "type")), strings.ToUpper(text(c.req, "flag"))
	if legacy, ok := legacyTypes[strings.ToLower(text(c.req, "type"))]; ok {
		want, flag = legacy.typ, legacy.flag
	}
	subject := text(c.req, "subject")
	if want == "" || want == "ANY" || want == "X509" {
		certs := s.engine.ListCerts()
		for _, f := range []string{"NONE", "CA"} {
			if flag != "" && flag != "ANY" && flag != f {
				continue
			}
			for _, ci := range certs {
				if (f == "CA") != (ci.CA || ci.Cert.IsCA()) || subject != "" && !named(ci.Cert, subject) {
					continue
				}
				var m wire.Message
				m.Set("type", "X509")
				m.Set("flag", f)
				m.SetYes("has_privkey", ci.HasKey)
				m.SetBytes("data", ci.Cert.X509.Raw)
				c.event(evListCert, m)
			}
		}
	}
	if (want == "" || want == "ANY" || want == "X509_CRL") && subject == "" {
		for _, l := range s.engine.CRLs() {
			var m wire.Message
			m.Set("type", "X509_CRL")
			m.SetBytes("data", l.List.Raw)
			c.event(evListCert, m)
		}
	}
	return nil
}

// certType is what a legacy name of a certificate type stands for.
type certType struct{ typ, flag string }

var legacyTypes = map[string]certType{
	"x509ca": {"X509", "CA"}, "x509ocsp": {"X509", "OCSP"}, "x509aa": {"X509", "AA"},
	"x509ac": {"X509_AC", ""}, "x509crl": {"X509_CRL", ""},
}

// named tells whether a subject or subject alternative name of the certificate
// is the one asked for.
func named(c *pki.Cert, subject string) bool {
	want, err := ident.Parse(subject)
	return err == nil && c.Holds(want)
}
