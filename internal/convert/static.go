package convert

import (
	"fmt"
	"net/netip"
	"strings"

	"iked/crypto/suite"
	"iked/internal/secret"
)

// matching are the SAs keyed by hand that carry what a policy sends.
func (c *converter) matching(p *policy) []*staticSA {
	var out []*staticSA
	for _, r := range p.rules {
		from, to := r.from, r.to
		if r.mode == "transport" {
			from, to = p.src.Addr(), p.dst.Addr()
		}
		for _, a := range c.adds {
			if a.src == from && a.dst == to && a.proto == r.proto {
				out = append(out, a)
			}
		}
	}
	return out
}

// static makes the commands of a policy whose SAs are keyed by hand; false: there
// are none.
func (c *converter) static(p *policy, r rule, from, to netip.Addr, local, remote string) bool {
	var pair [2]*staticSA // out, in
	id := r.id()
	for _, a := range c.adds {
		if a.proto != r.proto || a.mode != "" && a.mode != r.mode || id != "" && a.reqid != "" && a.reqid != id {
			continue
		}
		if pair[0] == nil && a.src == from && a.dst == to {
			pair[0] = a
		}
		if pair[1] == nil && a.src == to && a.dst == from {
			pair[1] = a
		}
	}
	if pair[0] == nil && pair[1] == nil {
		return false
	}
	// What is said about the policy is not said about its SAs again.
	taken := false
	for _, a := range pair {
		if a != nil {
			taken = taken || a.used
			a.used = true
		}
	}
	if pair[0] == nil || pair[1] == nil {
		c.note(p.stmt, true, "one of the two SAs of this policy, out and in, is not keyed by hand, and nothing negotiates the other: add it")
		return true
	}
	// Static SAs and their policy find each other by reqid.
	reqid := id
	if reqid == "" {
		reqid = pair[0].reqid
	}
	if reqid == "" || reqid == "0" {
		reqid = fmt.Sprint(0x10000 + len(c.res.Commands))
	}
	if taken {
		c.note(p.stmt, true, "another policy has these SAs already, and an SA carries what one policy sends: key SAs of its own for each")
		return true
	}
	var commands []string
	for i, a := range pair {
		cmd, ok := c.saAdd(a, []string{"out", "in"}[i], r.mode, reqid, local, remote)
		if !ok {
			return true
		}
		commands = append(commands, cmd)
	}
	name := c.unique("static", "static")
	words := []string{"ikectl policy add name=" + name, "action=protect", "local_ts=" + local, "remote_ts=" + remote, "proto=" + r.proto, "mode=" + r.mode, "reqid=" + reqid}
	words = append(words, "outer_local="+from.String(), "outer_remote="+to.String())
	c.res.Commands = append(c.res.Commands, strings.Join(words, " "))
	c.res.Commands = append(c.res.Commands, commands...)
	return true
}

// saAdd is the command that installs an SA, with its keys in a file.
func (c *converter) saAdd(a *staticSA, dir, mode, reqid, local, remote string) (string, bool) {
	alg, ok := a.algorithm()
	proto := map[string]suite.Protocol{"esp": suite.ProtoESP, "ah": suite.ProtoAH}[a.proto]
	list, err := suite.ParseProposals(proto, []string{alg})
	switch {
	case !ok:
		c.note(a.stmt, true, "the algorithms have no counterpart, or a key is missing: key the SA by hand with ikectl sa add")
		return "", false
	case err != nil || len(list) != 1:
		c.note(a.stmt, true, "the algorithms cannot be used: %v", err)
		return "", false
	case c.in.PSK == nil:
		c.note(a.stmt, true, "the SA has keys, which are written with --secrets-dir DIR only; without, it is left out")
		return "", false
	}
	var data []byte
	for _, k := range []struct {
		name string
		key  secret.Bytes
	}{{"encr_key", a.encrKey}, {"integ_key", a.integKey}} {
		if k.key.Len() > 0 {
			data = fmt.Appendf(data, "%s=%x\n", k.name, k.key.Reveal())
		}
	}
	spi := fmt.Sprintf("0x%08x", a.spi)
	file := c.unique("keys", "sa-"+dir+"-"+spi+".keys")
	c.res.Keys = append(c.res.Keys, KeyFile{file, secret.New(data)})
	words := []string{"ikectl sa add dir=" + dir, "proto=" + a.proto, "spi=" + spi, "src=" + a.src.String(), "dst=" + a.dst.String(), "mode=" + mode, "reqid=" + reqid,
		"local_ts=" + local, "remote_ts=" + remote, "alg=" + alg}
	if a.softTime != "" {
		words = append(words, "soft_time="+a.softTime)
	}
	if a.hardTime != "" {
		words = append(words, "hard_time="+a.hardTime)
	}
	return strings.Join(append(words, "--key-file "+shell(strings.TrimSuffix(c.in.SecretsDir, "/")+"/"+file)), " "), true
}

// shell quotes a word for a shell where it needs it.
func shell(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// algorithm is the suite of an SA in keywords; the length of the key says which AES.
func (a *staticSA) algorithm() (string, bool) {
	var parts []string
	if a.proto == "esp" {
		e := setkeyEncr[a.encr]
		bits := a.encrKey.Len() * 8
		switch e {
		case "":
			return "", false
		case "aes", "camellia", "blowfish":
			e = fmt.Sprintf("%s%d", e, bits)
		case "aesctr": // RFC 3686: a nonce of 32 bits behind the key
			e = fmt.Sprintf("aes%dctr", bits-32)
		case "aesgcm":
			e = fmt.Sprintf("aes%dgcm16", bits-32)
		case "3des":
			if bits != 192 {
				return "", false
			}
		}
		parts = append(parts, e)
	}
	if a.integ != "" {
		i := setkeyInteg[a.integ]
		if want := map[string]int{"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "aesxcbc": 16}[i]; i == "" || a.integKey.Len() != want {
			return "", false
		}
		parts = append(parts, i)
	}
	return strings.Join(parts, "-"), len(parts) > 0
}

// unpairedSAs says which SAs have no policy.
func (c *converter) unpairedSAs() {
	for _, a := range c.adds {
		if !a.used {
			c.note(a.stmt, true, "no policy out that is converted has this SA, so it is not known whose traffic it carries: add the spdadd lines")
		}
	}
}
