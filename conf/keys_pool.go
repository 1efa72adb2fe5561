package conf

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"iked/internal/pki"
)

// attribute numbers of a pool's keys for IPv4 and IPv6 (RFC 7296, Section
// 3.15.1, and the private ones that the field uses).
type poolAttr struct {
	key, doc string
	v4, v6   uint16
}

func poolAttrs() []poolAttr {
	return []poolAttr{
		{"dns", "Name servers.", 3, 10},
		{"address", "Addresses, as attribute.", 1, 8},
		{"nbns", "NetBIOS name servers.", 4, 11},
		{"dhcp", "DHCP servers.", 6, 12},
		{"netmask", "Netmasks.", 2, 9},
		{"subnet", "Subnets that are protected.", 13, 15},
		{"p_cscf", "P-CSCF servers.", 20, 21},
		{"server", "Servers (private use).", 23456, 23457},
		{"split_include", "Subnets to tunnel (Unity, IKEv1).", 28676, 28676},
		{"split_exclude", "Subnets not to tunnel (Unity, IKEv1).", 28678, 28678},
	}
}

func poolFields() []field[Pool] {
	fields := []field[Pool]{{key: "addrs", typ: "subnet or range", doc: "Addresses to give, as 10.3.0.0/24 (without its network and broadcast address) or 10.3.0.10-10.3.0.99. Required.", set: setPoolAddrs}}
	for _, a := range poolAttrs() {
		fields = append(fields, field[Pool]{key: a.key, typ: "list of addresses or subnets", list: true, doc: a.doc, set: attribute(a.v4, a.v6)})
	}
	words := func(number uint16, letters string) setter[Pool] {
		return func(_ *loader, p *Pool, it *Item) error {
			if letters != "" && strings.Trim(strings.ToLower(it.Value), letters) != "" {
				return refuse("", "expected a domain name, found %s", quote(it.Value))
			}
			if it.Value == "" || len(it.Value) > 512 {
				return refuse("", "expected a text of 1 to 512 octets, found %d", len(it.Value))
			}
			p.Attrs = append(p.Attrs, Attr{number, []byte(it.Value)})
			return nil
		}
	}
	return append(fields,
		field[Pool]{key: "home_prefix", typ: "list of IPv6 subnets", list: true, doc: "Mobile IPv6: prefixes of the home link, for mobile nodes that ask (RFC 5026, Section 5.2), with an infinite lifetime; with mobility_role: agent.", set: each(setHomePrefix)},
		field[Pool]{key: "home_agent", typ: "list of an IPv6 address, and perhaps an IPv4 address", list: true, doc: "Mobile IPv6: the address of the home agent, for mobile nodes that ask (3GPP TS 24.302); with mobility_role: agent.", set: setHomeAgent},
		field[Pool]{key: "banner", typ: "text", fileOnly: true, doc: "Text that clients show (Unity, IKEv1); over the control protocol the key 28672 is the same.", set: words(28672, "")},
		field[Pool]{key: "domain", typ: "domain name", fileOnly: true, doc: "Where clients look for names without dots (Unity, IKEv1); over the control protocol the key 28674 is the same.", set: words(28674, "abcdefghijklmnopqrstuvwxyz0123456789-.")})
}

// Configuration attributes of Mobile IPv6.
const (
	attrHomePrefix = 16
	attrHomeAgent  = 19
)

// setHomePrefix makes lifetime, prefix and prefix length (RFC 5026, Section 5.2).
func setHomePrefix(_ *loader, p *Pool, s string) error {
	x, err := netip.ParsePrefix(s)
	if err != nil || !x.Addr().Is6() || x.Addr().Is4In6() || !x.Masked().Addr().IsGlobalUnicast() {
		return refuse("", "expected an IPv6 subnet, found %s", quote(s))
	}
	v := append([]byte{0xff, 0xff, 0xff, 0xff}, x.Masked().Addr().AsSlice()...)
	p.Attrs = append(p.Attrs, Attr{attrHomePrefix, append(v, byte(x.Bits()))})
	return nil
}

// setHomeAgent makes an IPv6 address with perhaps an IPv4 address behind it.
func setHomeAgent(_ *loader, p *Pool, it *Item) error {
	var v []byte
	for i, s := range it.List {
		a, err := address(s)
		if err != nil || i > 1 || a.Is6() != (i == 0) || !a.IsGlobalUnicast() {
			return refuse("", "expected an IPv6 address and perhaps an IPv4 address, found %s", quote(strings.Join(it.List, " ")))
		}
		v = append(v, a.AsSlice()...)
	}
	if v != nil {
		p.Attrs = append(p.Attrs, Attr{attrHomeAgent, v})
	}
	return nil
}

// maxPool is the most addresses of a pool.
const maxPool = 1 << 31

func setPoolAddrs(_ *loader, p *Pool, it *Item) error {
	bad := func(why string) error {
		return refuse("", "expected %s as 10.3.0.0/24 or 10.3.0.10-10.3.0.99, found %s", why, quote(it.Value))
	}
	p.Text = it.Value
	if from, to, ok := strings.Cut(it.Value, "-"); ok {
		a, err1 := address(strings.TrimSpace(from))
		b, err2 := address(strings.TrimSpace(to))
		if err1 != nil || err2 != nil || a.BitLen() != b.BitLen() || b.Less(a) {
			return bad("a range of one family")
		}
		n, ok := distance(a, b)
		if !ok || n >= maxPool {
			return bad("at most 2147483648 addresses")
		}
		p.Base, p.Size = a, n+1
		return nil
	}
	pre, err := netip.ParsePrefix(it.Value)
	if err != nil {
		return bad("a subnet or range")
	}
	first, last := pre.Masked().Addr(), lastOf(pre.Masked())
	base := pre.Addr()
	// The network and the broadcast address are not given, where there are any.
	if bits := base.BitLen() - pre.Bits(); bits > 1 {
		if base == first {
			base = base.Next()
		}
		last = last.Prev()
	}
	n, ok := distance(base, last)
	if !ok || n >= maxPool {
		n = maxPool - 1
	}
	if last.Less(base) {
		return bad("a subnet with a usable address")
	}
	p.Base, p.Size = base, n+1
	return nil
}

// distance is b - a, if it fits 64 bits.
func distance(a, b netip.Addr) (uint64, bool) {
	x, y := a.As16(), b.As16()
	xh, xl := binary.BigEndian.Uint64(x[:8]), binary.BigEndian.Uint64(x[8:])
	yh, yl := binary.BigEndian.Uint64(y[:8]), binary.BigEndian.Uint64(y[8:])
	if yl >= xl {
		return yl - xl, xh == yh
	}
	return yl - xl, yh == xh+1
}

func attribute(v4, v6 uint16) setter[Pool] {
	return each(func(_ *loader, p *Pool, s string) error {
		if pre, err := netip.ParsePrefix(s); err == nil {
			p.Attrs = append(p.Attrs, prefixAttr(v4, v6, pre))
			return nil
		}
		a, err := address(s)
		if err != nil {
			return refuse("", "expected an address or subnet, found %s", quote(s))
		}
		p.Attrs = append(p.Attrs, addrAttr(v4, v6, a))
		return nil
	})
}

func addrAttr(v4, v6 uint16, a netip.Addr) Attr {
	if a.Is4() {
		return Attr{v4, a.AsSlice()}
	}
	return Attr{v6, a.AsSlice()}
}

// prefixAttr is address and mask for IPv4, address and prefix length for IPv6
// (RFC 7296, Section 3.15.1).
func prefixAttr(v4, v6 uint16, p netip.Prefix) Attr {
	if p.Addr().Is4() {
		mask := ^uint32(0)
		if p.Bits() < 32 {
			mask = ^(mask >> p.Bits())
		}
		return Attr{v4, binary.BigEndian.AppendUint32(p.Addr().AsSlice(), mask)}
	}
	return Attr{v6, append(p.Addr().AsSlice(), byte(p.Bits()))}
}

// pool reads a pool; a key that is a number is an attribute of that type.
func (l *loader) pool(tree *Tree) *Pool {
	p := &Pool{Name: tree.Name, pos: tree.Pos}
	rest := &Tree{Name: tree.Name, Pos: tree.Pos}
	for i := range tree.Items {
		it := &tree.Items[i]
		n, err := strconv.ParseUint(it.Key, 10, 15)
		if err != nil || it.Kind == Section {
			rest.Items = append(rest.Items, *it)
			continue
		}
		if !l.shape(it, true) {
			continue
		}
		for _, s := range it.List {
			if pre, err := netip.ParsePrefix(s); err == nil {
				p.Attrs = append(p.Attrs, prefixAttr(uint16(n), uint16(n), pre))
			} else if a, err := address(s); err == nil {
				p.Attrs = append(p.Attrs, addrAttr(uint16(n), uint16(n), a))
			} else {
				p.Attrs = append(p.Attrs, Attr{uint16(n), []byte(s)})
			}
		}
	}
	given := fill(l, poolFields(), p, rest, nil)
	if !given["addrs"] {
		l.fault(tree.Pos, "add addrs, as 10.3.0.0/24", "the pool has no addresses")
		l.faults[len(l.faults)-1].exact = "missing addrs for pool '" + p.Name + "'"
	}
	return p
}

type authorityEntry struct {
	Authority
	blob, file, handle string
}

func authorityFields() []field[authorityEntry] {
	uris := func(at func(*authorityEntry) *[]string) setter[authorityEntry] {
		return each(func(_ *loader, a *authorityEntry, s string) error { *at(a) = append(*at(a), s); return nil })
	}
	return []field[authorityEntry]{
		{key: "cacert", typ: "file", binary: true, doc: "CA certificate; the name is looked up in cacerts/.", set: text(func(a *authorityEntry) *string { return &a.blob })},
		{key: "file", typ: "path", doc: "The same, by path.", set: text(func(a *authorityEntry) *string { return &a.file })},
		{key: "handle", typ: "hexadecimal", doc: "Token: not supported by this version.", set: unsupported[authorityEntry]("")},
		{key: "slot", typ: "number", doc: "As handle.", set: unsupported[authorityEntry]("")},
		{key: "module", typ: "name", doc: "As handle.", set: unsupported[authorityEntry]("")},
		{key: "crl_uris", typ: "list of URIs", list: true, doc: "Where CRLs are. Kept and listed, but never fetched: put CRLs into crls/.", set: uris(func(a *authorityEntry) *[]string { return &a.CRLURIs })},
		{key: "ocsp_uris", typ: "list of URIs", list: true, doc: "Kept and listed, but never asked.", set: uris(func(a *authorityEntry) *[]string { return &a.OCSPURIs })},
		{key: "cert_uri_base", typ: "URI", doc: "Kept and listed, but never fetched from.", set: text(func(a *authorityEntry) *string { return &a.CertURIBase })},
	}
}

func (l *loader) authority(tree *Tree) *Authority {
	a := &authorityEntry{Authority: Authority{Name: tree.Name, pos: tree.Pos}}
	before := len(l.faults)
	fill(l, authorityFields(), a, tree, nil)
	var data []byte
	var source string
	var err error
	switch {
	case a.blob != "" && l.vici:
		data = []byte(a.blob)
	case a.blob != "":
		data, source, err = l.read("cacerts", a.blob)
	case a.file != "":
		data, source, err = l.read("cacerts", a.file)
	}
	if err == nil && len(data) > 0 {
		var certs []*pki.Cert
		if certs, err = pki.ParseCerts(data, source); err == nil {
			a.CACert = certs[0]
			if !a.CACert.IsCA() {
				err = refuse("use a certificate with basicConstraints CA:TRUE", "the certificate is no CA certificate")
			}
		}
	}
	switch {
	case err != nil:
		l.add(tree.Pos, err)
	case a.CACert == nil && len(l.faults) == before:
		l.fault(tree.Pos, "add cacert", "the CA certificate is missing")
	}
	if a.CACert == nil && len(l.faults) > before {
		f := l.faults[len(l.faults)-1]
		if f.item == "" {
			f.exact = "CA certificate missing: " + a.Name
		}
	}
	return &a.Authority
}
