package convert

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"iked/internal/secret"
)

// unhex reads hexadecimal digits; what is none has length 0.
func unhex(s string) secret.Bytes {
	b, err := hex.DecodeString(s)
	if err != nil {
		return secret.Bytes{}
	}
	return secret.New(b)
}

// secrets converts the file of pre-shared keys. No note shows any of its keys.
func (c *converter) secrets() []section {
	s := c.pskFrom
	if s.word(2) == "" {
		if c.racoon {
			for _, x := range c.conns {
				if len(x.local) > 0 && x.local[0].val == "psk" && x.from != nil {
					c.note(x.from.stmt, false, "no path pre_shared_key names the keys: add secrets")
					break
				}
			}
		}
		return nil
	}
	if c.in.PSK == nil {
		c.note(s, false, "keys are written with --secrets-dir DIR only; without, add them to secrets yourself")
		return nil
	}
	f, err := c.in.PSK(s.file, s.word(2))
	if err != nil {
		c.note(s, false, "the file was not read (%v): add the keys to secrets yourself", err)
		return nil
	}
	if len(f.Data) > MaxFile {
		c.note(s, false, "the file is longer than %d octets: add the keys to secrets yourself", MaxFile)
		return nil
	}
	var out []section
	for i, l := range strings.Split(string(f.Data), "\n") {
		at := stmt{file: f.Name, line: i + 1, words: []token{{text: "pre-shared key"}}}
		l = strings.TrimRight(strings.TrimLeft(l, " \t"), "\r")
		if l == "" || l[0] == '#' {
			continue
		}
		n := strings.IndexAny(l, " \t")
		if n < 0 {
			c.note(at, false, "expected an identifier and a key; the line is left out")
			continue
		}
		id, key := l[:n], strings.TrimLeft(l[n:], " \t")
		data := secret.New([]byte(key))
		if h, ok := strings.CutPrefix(key, "0x"); ok {
			data = unhex(h)
		}
		if data.Len() == 0 || strings.ContainsRune(id, 0) || len(id) > 255 {
			c.note(at, false, "the key is empty or not hexadecimal, or the identifier is too long; the line is left out")
			continue
		}
		if len(out) >= maxOutput {
			c.note(at, false, "more than %d keys; this one and those behind it are left out", maxOutput)
			break
		}
		var entry section
		entry.set("psk", "file:"+c.keyFile("psk-"+id, data))
		if id != "*" {
			owner := owner(id)
			if k := fmt.Sprintf("@#%x", id); c.peers[k] {
				owner = k
			} else if c.peers["asn1dn:"+id] {
				owner = "asn1dn:" + id
			}
			entry.set("id", []string{owner})
			if owner[0] == '@' && !c.peers[owner] {
				c.note(at, false, "the identifier is no address and no name, so it is taken as a key id")
			}
		} else {
			c.note(at, false, "the key * is for everybody who has no other: whoever knows it can be anyone")
		}
		out = append(out, entry)
	}
	return out
}

// owner is an identity of psk.txt in the words of this product.
func owner(id string) string {
	if p, err := netip.ParsePrefix(id); err == nil {
		return p.String()
	}
	if a, err := netip.ParseAddr(id); err == nil {
		return a.String()
	}
	plain := !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_@", r))
	})
	switch {
	case plain && strings.Count(id, "@") == 1 && id[0] != '@':
		return "email:" + id
	case plain && !strings.Contains(id, "@"):
		return "fqdn:" + id
	}
	return fmt.Sprintf("@#%x", id)
}

// keyFile keeps a pre-shared key and gives back how the configuration names its
// file. A file ends with a line end, which is not of the key.
func (c *converter) keyFile(name string, key secret.Bytes) string {
	data := slices.Concat(key.Reveal(), []byte("\n"))
	if b := key.Reveal(); b[len(b)-1] == '\r' {
		data = slices.Concat(b, []byte("\r\n"))
	}
	name = c.unique("keys", name)
	c.res.Keys = append(c.res.Keys, KeyFile{name, secret.New(data)})
	return strings.TrimSuffix(c.in.SecretsDir, "/") + "/" + name
}
