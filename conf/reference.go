package conf

import (
	"fmt"
	"io"
	"strings"
)

//go:generate go run ./genreference ../docs/configuration.md

// WriteReference writes the configuration reference, made of the tables that the
// loader itself uses, as Markdown.
func WriteReference(w io.Writer) error {
	r := &reference{w: w}
	r.text(intro)
	r.text("## Top level\n\nBeside the sections below:\n")
	table(r, globalFields())
	r.text("## connections\n\nA list; each has a `name`, which has no blanks and no `/`.\n")
	table(r, connectionFields())
	r.text("Sections in a connection: `local`, `remote` and `children`.\n")
	r.text("## connections: local and remote\n\nHow this side proves who it is, and how the peer must. Both may be left out: then a pre-shared key is used if `secrets` has one for the two identities, else certificates.\n")
	table(r, authFields())
	r.text("## connections: children\n\nA list; each has a `name`.\n")
	table(r, childFields())
	r.text("`start` stands for the three actions: `always` is `trap|start` in all three, `on-demand` is `trap`, `passive` is `none`.\n")
	r.text("## secrets\n\nA list. Each entry has either `psk` or `private`.\n")
	table(r, append([]field[secretEntry]{{key: "name", typ: "text", doc: "Name, for people."}}, secretFields()...))
	r.text("A secret without `id` is anybody's. One with `id` is used when one of the identities is the peer's, or all of them are this side's; the best match of the peer wins.\n")
	r.text("## pools\n\nA list; each has a `name`. Beside the keys here, a number is a key: the attribute of that type, its values addresses, subnets or text.\n")
	table(r, poolFields())
	r.text("## home_addresses\n\nA list: which home addresses of Mobile IPv6 peers may have, for all connections of the file with `mobility_role` agent or correspondent, beside `home_addresses` of their remote sections.\n")
	table(r, homeFields())
	r.text("## authorities\n\nA list; each has a `name`.\n")
	table(r, authorityFields())
	r.text("## radius\n\nA list; each has a `name`. RADIUS servers (RFC 2865) that know the users of connections with `auth: xauth-radius`; the first one that answers decides.\n")
	table(r, radiusFields())
	r.text("## log\n")
	table(r, logFields())
	r.text("## control\n")
	table(r, controlFields())
	r.text("## datapath\n\nOf the userspace backend.\n")
	table(r, datapathFields())
	r.text("## limits\n\nThey bound the work for strangers.\n")
	table(r, limitsFields())
	r.text("## retransmit\n\nThe n-th wait is timeout × base^n (RFC 7296, Section 2.4).\n")
	table(r, retransmitFields())
	r.text(strings.TrimSuffix(values, "\n"))
	return r.err
}

type reference struct {
	w   io.Writer
	err error
}

func (r *reference) text(s string) {
	if r.err == nil {
		_, r.err = fmt.Fprintln(r.w, s)
	}
}

func table[T any](r *reference, fields []field[T]) {
	r.text("| key | value | default | meaning |\n|---|---|---|---|")
	cell := func(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
	for _, f := range fields {
		def := cell(f.def)
		if def != "" {
			def = "`" + def + "`"
			if strings.Contains(f.def, " ") {
				def = cell(f.def)
			}
		}
		doc := cell(f.doc)
		if f.fileOnly {
			doc += " In files only."
		}
		r.text(fmt.Sprintf("| `%s` | %s | %s | %s |", f.key, cell(f.typ), def, doc))
	}
	r.text("")
}

const intro = `# Configuration reference

This page is generated from the tables that the daemon reads its configuration
with: ` + "`go generate ./conf`" + `.

The file is YAML (` + "`.yaml`, `.yml`" + `) or TOML (` + "`.toml`" + `); ` + "`/etc/iked/iked.yaml`" + ` by default.
` + "`iked --check --config FILE`" + ` prints every fault with file, line and key. The keys of
connections, pools and authorities are those of swanctl.conf, and the control
protocol takes the same. An unknown key is an error that names the nearest known
one. A key that this version cannot honour is an error unless it has a value that
asks for nothing.

Credentials are read from directories beside the file:

| directory | contents |
|---|---|
| ` + "`certs/`" + ` | own certificates, those of peers, and intermediate CAs |
| ` + "`cacerts/`" + ` | CA certificates that are trusted |
| ` + "`private/`" + ` | private keys, which other users must not be able to read |
| ` + "`crls/`" + ` | certificate revocation lists |

PEM or DER; keys as PKCS#8 (plain, or encrypted with PBES2 and AES), PKCS#1 or SEC1;
RSA, ECDSA on P-256, P-384, P-521, Ed25519. Nothing is ever fetched from the network.

A complete file:

    connections:
      - name: office
        remote_addrs: [sun.example.org]
        children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16], start: always}]
    secrets:
      - {psk: "file:office.psk"}
`

const values = `## Values

- yes/no: ` + "`yes`, `true`, `enabled`, `1`, `no`, `false`, `disabled`, `0`" + `.
- time: a whole number and ` + "`d`, `h`, `m`, `s` or `ms`" + `; without unit, seconds.
- size: a whole number and ` + "`k`, `m` or `g`" + ` (powers of 1024); without unit, octets.
- number: decimal, ` + "`0x`" + ` hexadecimal or ` + "`0`" + ` octal.
- hosts: address, subnet, ` + "`first-last`, `%any`, `%any4`, `%any6`" + `, DNS name.
- selector: ` + "`dynamic`" + `, address, subnet or ` + "`first-last`" + `, then perhaps ` + "`[protocol/port]`" + `.
- identity: ` + "`%any`" + `, address, subnet, range, DNS name, mail address, or a distinguished
  name ` + "`C=CH, O=x, CN=y`" + `. A prefix says which: ` + "`fqdn:`, `email:`, `ipv4:`, `ipv6:`, `ipv4net:`,\n  `ipv6net:`, `ipv4range:`, `ipv6range:`, `asn1dn:`, `keyid:`" + `; after it ` + "`#`" + ` begins hexadecimal.
  ` + "`@x`" + ` is a DNS name whatever it looks like, ` + "`@@x`" + ` a mail address, ` + "`@#hex`" + ` an opaque key id.
  As a pattern, names may begin with ` + "`*`" + ` or be a regular expression ` + "`^…$`" + `, and RDN values may be ` + "`*`" + `.
`
