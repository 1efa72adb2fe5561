package convert

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"iked/crypto/suite"
)

// connection is one of the output: what a remote says, with one peer.
type connection struct {
	from     *remote // nil: no remote says anything about the peer
	name     string
	keys     section
	local    section
	local2   section
	remote   section
	remote2  section
	children []section
	scope    string
	peer     string // address or name; empty: anybody
	passive  bool
	shunts   bool // it has policies without peer
	generate bool // policies are made of what the peer proposes
	lifetime time.Duration
}

// authMethod is a method of authentication: class of the first round on either
// side, and on which side XAuth is.
type authMethod struct{ local, remote, user string }

var authMethods = map[string]authMethod{
	"pre_shared_key": {"psk", "psk", ""}, "rsasig": {"pubkey", "pubkey", ""},
	"hybrid_rsa_client": {"xauth", "pubkey", "local"}, "hybrid_rsa_server": {"pubkey", "xauth", "remote"},
	"xauth_psk_client": {"psk", "psk", "local-2"}, "xauth_psk_server": {"psk", "psk", "remote-2"},
	"xauth_rsa_client": {"pubkey", "pubkey", "local-2"}, "xauth_rsa_server": {"pubkey", "pubkey", "remote-2"},
}

// connect makes the connection of a remote with a peer, which is another than the
// remote's own where that is anonymous.
func (c *converter) connect(r *remote, peer string) *connection {
	x := &connection{from: r, peer: peer}
	base := peer
	if r != nil && r.name != "" && !r.anonymous {
		base = r.name
	}
	if base == "" {
		base = "anonymous"
	}
	x.name = c.unique("", base)
	x.scope = x.name
	x.keys.set("name", x.name)
	x.keys.set("version", "1")
	if len(c.listen) == 1 {
		x.keys.set("local_addrs", c.listen)
	}
	if peer != "" {
		x.keys.set("remote_addrs", []string{peer})
		c.peers[peer] = true
	} else {
		x.keys.set("remote_addrs", []string{"%any"})
		x.passive = true
	}
	if r == nil {
		x.local.set("auth", "psk")
		x.remote.set("auth", "psk")
	} else {
		r.used = true
		c.phase1(x, r)
	}
	c.conns = append(c.conns, x)
	return x
}

// phase1 reads the statements of a remote.
func (c *converter) phase1(x *connection, r *remote) {
	if r.port != "" && r.port != "500" && r.port != "any" {
		x.keys.set("remote_port", number(r.port))
	}
	var proposals []string
	var method, user string
	var natForce, aggressive, modeCfg, dpdOff bool
	var dpdDelay, dpdRetry, dpdFail time.Duration = 0, 5 * time.Second, 5
	verify := false
	listed := 0
	for _, s := range r.body {
		v := s.word(1)
		switch s.word(0) {
		case "remote_address", "ph1id", "doi", "situation", "nonce_size", "support_proxy", "keepalive", "initial_contact":
			if s.word(0) == "initial_contact" && v == "off" {
				c.note(s, false, "INITIAL-CONTACT is sent whenever no IKE SA with the peer is left")
			}
		case "exchange_mode":
			aggressive = c.exchangeModes(s)
		case "my_identifier":
			x.local.set("id", c.identity(s, 1))
		case "peers_identifier":
			if id := c.identity(s, 1); id != "" && !has(x.remote, "id") {
				x.remote.set("id", id)
				c.peers[id] = true
			} else if id != "" {
				c.note(s, false, "one connection has one identity of the peer: the first is taken, make a connection for each of the others")
			}
		case "verify_identifier":
			verify = v == "on"
		case "certificate_type":
			c.ownCertificate(x, s)
		case "ca_type":
			if v == "x509" && s.word(2) != "" {
				x.remote.set("cacerts", []string{path.Base(s.word(2))})
				c.note(s, false, "put the certificate of the CA, %s, into cacerts/ beside the configuration", c.at("certificate", s.word(2)))
			} else {
				c.note(s, false, "only X.509 certificates of CAs are known: put them into cacerts/ beside the configuration")
			}
		case "peers_certfile":
			if v == "x509" && s.word(2) != "" {
				x.remote.set("certs", []string{path.Base(s.word(2))})
				c.note(s, false, "put the peer's certificate, %s, into certs/ beside the configuration", c.at("certificate", s.word(2)))
			} else {
				c.note(s, false, "neither plain RSA keys nor keys in the DNS prove a peer here: use a certificate")
			}
		case "verify_cert":
			if v == "off" {
				c.note(s, false, "the peer's certificate is always verified: put its CA into cacerts/, or name it in certs of the remote section")
			}
		case "send_cert":
			if v == "off" {
				x.keys.set("send_cert", "never")
			}
		case "send_cr":
			if v == "off" {
				x.keys.set("send_certreq", "no")
			}
		case "cert_check_time", "weak_phase1_check", "mycert", "certtype", "script", "gss_id", "phase1_up", "phase1_down":
			c.note(s, false, "nothing here corresponds to it; ikectl log shows when SAs come and go")
		case "proposal_check":
			c.proposalCheck(x, s)
		case "lifetime":
			c.setLifetime(x, s)
		case "nat_traversal":
			natForce = v == "force"
			if v == "off" {
				c.note(s, false, "NATs are always detected; without one nothing changes")
			}
		case "dpd":
			if v == "off" {
				dpdOff = true
				c.note(s, false, "a peer that packets make SAs with is asked every 30s whether it lives, in spite of it")
			}
		case "dpd_delay":
			dpdDelay, _ = duration(s, 1)
		case "dpd_retry":
			if d, ok := duration(s, 1); ok {
				dpdRetry = d
			}
		case "dpd_maxfail":
			if n, err := strconv.ParseUint(v, 10, 10); err == nil && n > 0 {
				dpdFail = time.Duration(n)
			}
		case "ike_frag":
			x.keys.set("fragmentation", map[string]string{"on": "yes", "off": "no", "force": "force"}[v])
		case "esp_frag":
			c.note(s, false, "packets are cut behind ESP where the path needs it: ask for another size with datapath.mtu")
		case "mode_cfg":
			modeCfg = v == "on"
		case "passive":
			x.passive = x.passive || v == "on"
		case "generate_policy":
			x.generate = v != "off" && v != ""
		case "rekey":
			if v == "off" {
				c.note(s, false, "an IKE SA is replaced before it ends; set rekey_time to 0 if the peer cannot stand it")
			}
		case "xauth_login":
			user = v
		case "proposal":
			listed++
			p, m := c.proposal1(x, s)
			if p != "" && !slices.Contains(proposals, p) {
				proposals = append(proposals, p)
			}
			switch {
			case m == "":
			case method == "":
				method = m
			case method != m:
				c.note(s, false, "one connection has one method of authentication: %s is taken, make another connection for %s", method, m)
			}
		default:
			c.note(s, true, "this statement of remote is not known; see whether it matters, and remove it")
		}
	}
	if listed > 0 && len(proposals) == 0 {
		c.note(r.stmt, false, "no proposal of phase 1 is left, so the defaults of IKEv1 are offered: let the peer accept aes256-sha256-modp2048")
	}
	x.keys.set("proposals", proposals)
	if method == "" {
		method = "pre_shared_key"
		c.note(r.stmt, false, "no proposal says how the peers prove who they are; a pre-shared key is assumed")
	}
	c.authenticate(x, r, method, user, aggressive)
	if natForce {
		x.keys.set("encap", "yes")
	}
	if dpdDelay > 0 && !dpdOff {
		x.keys.set("dpd_delay", seconds(dpdDelay))
		x.keys.set("dpd_timeout", seconds(dpdDelay+dpdRetry*dpdFail))
	}
	if l := x.lifetime; l > 0 {
		// The lifetime is when the SA ends; it is replaced before.
		x.keys.set("rekey_time", seconds(max(l*9/10, time.Second)))
		x.keys.set("over_time", seconds(max(l/10, time.Second)))
	}
	if modeCfg && !x.passive {
		x.keys.set("vips", []string{"0.0.0.0"})
	} else if (modeCfg || x.generate) && len(c.pool) > 0 {
		x.keys.set("pools", []string{"modecfg"})
	}
	if !verify && has(x.remote, "id") {
		c.note(r.stmt, false, "without verify_identifier on, racoon takes any identity of the peer; here the peer must have that of peers_identifier")
	}
}

func has(s section, key string) bool {
	return slices.ContainsFunc(s, func(e entry) bool { return e.key == key })
}

// number gives back what is a number, else nothing.
func number(s string) string {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil && n > 0 {
		return strconv.FormatUint(n, 10)
	}
	return ""
}

// at is where racoon finds a file of a path.
func (c *converter) at(kind, name string) string {
	if dir := c.paths[kind]; dir != "" && !path.IsAbs(name) {
		return path.Join(dir, name)
	}
	return name
}

func (c *converter) exchangeModes(s stmt) (aggressive bool) {
	modes := s.rest(1)
	for i, m := range modes {
		switch m {
		case "main", "identity_protection", "ident":
		case "aggressive":
			if i == 0 {
				aggressive = true
			} else {
				c.note(s, false, "Aggressive Mode is accepted only where it is used, too: set aggressive to yes if the peer needs it")
			}
		default:
			c.note(s, false, "%s: only main and aggressive are exchanges of phase 1 here; let the peer use main", m)
		}
	}
	return aggressive
}

// authenticate writes who proves what to whom.
func (c *converter) authenticate(x *connection, r *remote, method, user string, aggressive bool) {
	m, ok := authMethods[method]
	if !ok {
		c.note(r.stmt, false, "authentication_method %s is not there (DSS and Kerberos are not implemented, RSA encryption is an oracle): certificates are asked for in its place", method)
		m = authMethods["rsasig"]
	}
	auth := func(s *section, class string) { *s = append(section{{"auth", class}}, *s...) }
	auth(&x.local, m.local)
	auth(&x.remote, m.remote)
	switch m.user {
	case "local":
		x.local.set("xauth_id", user)
	case "local-2":
		x.local2.set("auth", "xauth")
		x.local2.set("xauth_id", user)
	case "remote-2":
		x.remote2.set("auth", "xauth")
	}
	if strings.HasPrefix(m.user, "local") {
		if user == "" {
			c.note(r.stmt, false, "XAuth needs the user's name: add xauth_id to the local section, and the password to secrets with type: xauth")
		}
		c.peers[user] = true
	}
	if strings.HasPrefix(m.user, "remote") {
		c.note(r.stmt, false, "users of XAuth and their passwords are secrets of type xauth: add {psk: \"file:…\", type: xauth, id: [NAME]} for each")
	}
	if aggressive {
		x.keys.set("aggressive", "yes")
		if m.local == "psk" {
			c.note(r.stmt, false, "Aggressive Mode with a pre-shared key gives whoever asks a hash to try passwords on: it is answered only with aggressive_psk: yes, which you must add yourself")
		}
	}
}

// identity reads the kind and value of an identity from the i-th word on; empty: it
// is that of the certificate or the address.
func (c *converter) identity(s stmt, i int) string {
	kind, v := s.word(i), s.word(i+1)
	if kind == "keyid" && (v == "file" || v == "tag") {
		if v == "file" {
			c.note(s, false, "the identity is in a file: write it as id: \"@#HEX\"")
			return ""
		}
		v = s.word(i + 2)
	}
	switch {
	case kind == "address" && v == "", kind == "asn1dn" && v == "":
		return ""
	case kind == "address" || kind == "subnet":
		if p, err := prefix(v); err == nil {
			if p.IsSingleIP() {
				return p.Addr().String()
			}
			return p.String()
		}
	case v == "":
	case kind == "fqdn":
		return "fqdn:" + v
	case kind == "user_fqdn":
		return "email:" + v
	case kind == "keyid":
		return "@#" + fmt.Sprintf("%x", v)
	case kind == "asn1dn":
		return "asn1dn:" + v
	}
	c.note(s, false, "an identity of this kind is not known: write the key id of the section")
	return ""
}

func (c *converter) ownCertificate(x *connection, s stmt) {
	if s.word(1) != "x509" || s.word(2) == "" {
		c.note(s, false, "only X.509 certificates are known (no plain RSA keys): make one, and put it into certs/ and its key into private/")
		return
	}
	x.local.set("certs", []string{path.Base(s.word(2))})
	c.note(s, false, "put %s into certs/ and its key %s into private/ beside the configuration", c.at("certificate", s.word(2)), c.at("certificate", s.word(3)))
}

func (c *converter) proposalCheck(x *connection, s stmt) {
	switch s.word(1) {
	case "obey", "claim", "strict", "exact":
		x.keys.set("proposal_check", s.word(1))
	default:
		c.note(s, false, "expected obey, strict, claim or exact")
	}
}

// setLifetime keeps the shortest lifetime of phase 1.
func (c *converter) setLifetime(x *connection, s stmt) {
	if s.word(1) == "byte" {
		c.note(s, false, "an IKE SA has no lifetime in octets")
	} else if d, ok := duration(s, 2); ok && s.word(1) == "time" {
		if x.lifetime == 0 || d < x.lifetime {
			x.lifetime = d
		}
	} else {
		c.note(s, false, "expected lifetime time, a number and sec, min or hour; the default is taken")
	}
}

var groups = map[string]string{"1": "modp768", "2": "modp1024", "5": "modp1536", "14": "modp2048", "15": "modp3072", "16": "modp4096", "17": "modp6144", "18": "modp8192", "19": "ecp256", "20": "ecp384", "21": "ecp521"}

// group is the keyword of a group, by number or name.
func group(s string) string {
	if g := groups[s]; g != "" {
		return g
	}
	return s
}

// proposal1 is a proposal of phase 1 as keywords, and its method.
func (c *converter) proposal1(x *connection, s stmt) (proposal, method string) {
	encr, hash, dh := "", "", ""
	for _, b := range s.body {
		switch b.word(0) {
		case "encryption_algorithm":
			encr = cipher(b.word(1), b.word(2))
		case "hash_algorithm":
			hash = integ(b.word(1))
		case "authentication_method":
			method = b.word(1)
		case "dh_group":
			dh = group(b.word(1))
		case "lifetime":
			c.setLifetime(x, b)
		default:
			c.note(b, false, "nothing here corresponds to it; leave it out")
		}
	}
	if encr == "" || hash == "" || dh == "" {
		c.note(s, false, "the proposal needs encryption_algorithm, hash_algorithm and dh_group; it is left out")
		return "", method
	}
	p := encr + "-" + hash + "-" + dh
	if _, err := suite.ParseProposals(suite.ProtoIKE, []string{p}); err != nil {
		c.note(s, false, "the proposal is left out: %v", err)
		return "", method
	}
	return p, method
}

// cipher is the keyword of racoon's name for a cipher and its length in bits.
func cipher(name, bits string) string {
	switch name {
	case "aes", "rijndael":
		if bits == "" {
			bits = "128"
		}
		return "aes" + bits
	case "aes_gcm_16", "aes_gcm":
		if bits == "" {
			bits = "128"
		}
		return "aes" + bits + "gcm16"
	case "null_enc":
		return "null"
	case "blowfish", "camellia", "twofish":
		return name + bits
	}
	return name
}

// integ is the keyword of racoon's name for a hash, keyed or not.
func integ(name string) string {
	name = strings.TrimPrefix(name, "hmac_")
	if s, ok := strings.CutPrefix(name, "sha2_"); ok {
		return "sha" + s
	}
	return name
}
