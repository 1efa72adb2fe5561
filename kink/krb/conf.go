package krb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"iked/kink/krb/krb5"
)

// DefaultConf is where krb5.conf is.
const DefaultConf = "/etc/krb5.conf"

// Conf is what is honoured of krb5.conf. It is immutable.
type Conf struct {
	// Notes are what a person may miss, for the log. That the rest of the file is for
	// others is no news.
	Notes []string

	// DefaultKeytab is the keytab of an identity that names none.
	DefaultKeytab string
	// Permitted, TktETypes and TGSETypes are encryption types, the preferred first.
	Permitted, TktETypes, TGSETypes []int32
	// ClockSkew is what a clock may be off; TimeSync lets the time follow a KDC's.
	ClockSkew time.Duration
	TimeSync  bool
	// UDPLimit is the size of a request, in octets, from which on TCP comes first.
	UDPLimit       int
	TicketLifetime time.Duration
	Canonicalize   bool
	LookupKDC      bool // by SRV records
	// Timeout is how long one KDC is waited for at first, Retries how often all are
	// asked.
	Timeout time.Duration
	Retries int

	p *profile
}

// strong are the encryption types by default, the strongest first. Type 16 is used
// when it is named only.
var strong = []int32{krb5.SHA384, krb5.AES256, krb5.SHA256, krb5.AES128}

// LoadConf reads krb5.conf; a list of files is separated by colons, and what an
// earlier one says counts. No file at all means the defaults.
func LoadConf(paths string) (*Conf, error) {
	return loadConf(paths, osFiles{})
}

func loadConf(paths string, from files) (*Conf, error) {
	pr := profileReader{fs: from, root: new(profile)}
	for _, name := range strings.Split(paths, ":") {
		if name == "" {
			continue
		}
		if err := pr.read(name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return newConf(pr.root, pr.notes)
}

// osFiles reads from the file system.
type osFiles struct{}

func (osFiles) Read(name string, limit int) ([]byte, error) { return readFile(name, limit) }

func (osFiles) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// readFile reads a regular file of at most limit octets.
func readFile(name string, limit int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is no regular file", name), err)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%s has more than %d octets", name, limit)
	}
	return b, err
}

func newConf(p *profile, notes []string) (*Conf, error) {
	c := &Conf{
		Notes: notes, p: p,
		DefaultKeytab: p.value("libdefaults", "default_keytab_name"),
		ClockSkew:     5 * time.Minute, TimeSync: true, UDPLimit: 1465, TicketLifetime: 24 * time.Hour, LookupKDC: true, Timeout: time.Second, Retries: 3,
	}
	if c.DefaultKeytab == "" {
		c.DefaultKeytab = "/etc/krb5.keytab"
	}
	for _, v := range []struct {
		name string
		set  func(string) error
	}{
		{"clockskew", seconds(&c.ClockSkew, time.Second, time.Hour)},
		{"ticket_lifetime", seconds(&c.TicketLifetime, time.Minute, 10*365*24*time.Hour)},
		{"kdc_timeout", seconds(&c.Timeout, 100*time.Millisecond, time.Minute)},
		{"max_retries", number(&c.Retries, 1, 20)},
		{"udp_preference_limit", number(&c.UDPLimit, 0, 32700)},
		{"kdc_timesync", truth(&c.TimeSync)},
		{"canonicalize", truth(&c.Canonicalize)},
		{"dns_lookup_kdc", truth(&c.LookupKDC)},
	} {
		if s := p.value("libdefaults", v.name); s != "" {
			if err := v.set(s); err != nil {
				return nil, fmt.Errorf("krb5.conf, %s: %w", v.name, err)
			}
		}
	}
	var err error
	if c.Permitted, err = c.etypes("permitted_enctypes", strong, nil); err != nil {
		return nil, err
	}
	if c.TktETypes, err = c.etypes("default_tkt_enctypes", c.Permitted, c.Permitted); err != nil {
		return nil, err
	}
	if c.TGSETypes, err = c.etypes("default_tgs_enctypes", c.Permitted, c.Permitted); err != nil {
		return nil, err
	}
	return c, nil
}

// seconds reads a time: seconds, 1h30m, 1d, or h:m:s.
func seconds(d *time.Duration, low, high time.Duration) func(string) error {
	return func(s string) error {
		v, err := parseDuration(s)
		if err == nil && (v < low || v > high) {
			err = fmt.Errorf("%s is not between %v and %v", s, low, high)
		}
		if err == nil {
			*d = v
		}
		return err
	}
}

func parseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is no time; 300, 5m, 1h30m, 1d or 10:00:00 are", clip(s))
	var total time.Duration
	if strings.Contains(s, ":") {
		parts := strings.Split(s, ":")
		if len(parts) > 3 {
			return 0, bad
		}
		for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second}[:len(parts)] {
			n, err := strconv.ParseUint(parts[i], 10, 20)
			if err != nil {
				return 0, bad
			}
			total += time.Duration(n) * unit
		}
		return total, nil
	}
	digits := ""
	for _, r := range strings.ReplaceAll(s, " ", "") {
		unit := time.Duration(0)
		switch {
		case r >= '0' && r <= '9' && len(digits) < 9:
			digits += string(r)
			continue
		case r == 'd':
			unit = 24 * time.Hour
		case r == 'h':
			unit = time.Hour
		case r == 'm':
			unit = time.Minute
		case r == 's':
			unit = time.Second
		}
		n, err := strconv.Atoi(digits)
		if unit == 0 || err != nil || n > 1e6 && unit > time.Second {
			return 0, bad
		}
		total, digits = total+time.Duration(n)*unit, ""
	}
	if digits != "" {
		n, _ := strconv.Atoi(digits)
		total += time.Duration(n) * time.Second
	} else if total == 0 {
		return 0, bad
	}
	return total, nil
}

func number(n *int, low, high int) func(string) error {
	return func(s string) error {
		v, err := strconv.Atoi(s)
		if err != nil || v < low || v > high {
			return fmt.Errorf("%q is no number from %d to %d", clip(s), low, high)
		}
		*n = v
		return nil
	}
}

func truth(b *bool) func(string) error {
	return func(s string) error {
		switch strings.ToLower(s) {
		case "y", "yes", "true", "t", "1", "on":
			*b = true
		case "n", "no", "false", "nil", "0", "off":
			*b = false
		default:
			return fmt.Errorf("%q is neither true nor false", clip(s))
		}
		return nil
	}
}

// enctypes are the names and families that are known.
var enctypes = map[string][]int32{
	"aes256-cts-hmac-sha1-96": {krb5.AES256}, "aes256-cts": {krb5.AES256}, "aes256-sha1": {krb5.AES256},
	"aes128-cts-hmac-sha1-96": {krb5.AES128}, "aes128-cts": {krb5.AES128}, "aes128-sha1": {krb5.AES128},
	"aes256-cts-hmac-sha384-192": {krb5.SHA384}, "aes256-sha2": {krb5.SHA384},
	"aes128-cts-hmac-sha256-128": {krb5.SHA256}, "aes128-sha2": {krb5.SHA256},
	"des3-cbc-sha1": {krb5.DES3}, "des3-hmac-sha1": {krb5.DES3}, "des3-cbc-sha1-kd": {krb5.DES3}, "des3": {krb5.DES3},
	"aes": {krb5.AES256, krb5.AES128, krb5.SHA384, krb5.SHA256},
	// Known and not supported: RFC 6649 and RFC 8429 end them, and nobody has the last.
	"rc4": nil, "rc4-hmac": nil, "arcfour-hmac": nil, "arcfour-hmac-md5": nil, "rc4-hmac-exp": nil, "arcfour-hmac-exp": nil, "arcfour-hmac-md5-exp": nil,
	"des": nil, "des-cbc-crc": nil, "des-cbc-md4": nil, "des-cbc-md5": nil, "des-hmac-sha1": nil,
	"camellia": nil, "camellia128-cts-cmac": nil, "camellia128-cts": nil, "camellia256-cts-cmac": nil, "camellia256-cts": nil,
}

// etypes reads a list of encryption types; within limits it to those that are there.
func (c *Conf) etypes(name string, initial, within []int32) ([]int32, error) {
	text := c.p.value("libdefaults", name)
	if text == "" {
		return initial, nil
	}
	list, err := parseETypes(text, initial)
	if err != nil {
		return nil, fmt.Errorf("krb5.conf, %s: %w", name, err)
	}
	if within != nil {
		list = slices.DeleteFunc(list, func(id int32) bool { return !slices.Contains(within, id) })
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("krb5.conf, %s: %q has no encryption type that is supported; aes256-cts-hmac-sha1-96 is one", name, clip(text))
	}
	return list, nil
}

func parseETypes(text string, initial []int32) (list []int32, err error) {
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		remove := strings.HasPrefix(w, "-")
		w = strings.TrimPrefix(strings.TrimPrefix(w, "-"), "+")
		ids, known := enctypes[w]
		if w == "default" {
			ids, known = initial, true
		}
		if !known {
			return nil, fmt.Errorf("%q is no encryption type", clip(w))
		}
		for _, id := range ids {
			if i := slices.Index(list, id); i >= 0 && remove {
				list = slices.Delete(list, i, i+1)
			} else if i < 0 && !remove {
				list = append(list, id)
			}
		}
	}
	return list, nil
}

// ETypes reads names of encryption types, as krb5.conf has them.
func ETypes(names string) ([]int32, error) {
	list, err := parseETypes(names, strong)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%q has no encryption type that is supported", clip(names))
	}
	return list, err
}

// RealmOf is the realm of a host by [domain_realm]: its name, or the longest of its
// parent domains, written with a leading dot. "" when nothing is said.
func (c *Conf) RealmOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > 255 {
		return ""
	}
	if v := c.domain(host); v != "" {
		return v
	}
	for {
		i := strings.IndexByte(host, '.')
		if i < 0 {
			return ""
		}
		if v := c.domain(host[i:]); v != "" {
			return v
		}
		// MIT takes a parent without the dot as well.
		if host = host[i+1:]; host != "" {
			if v := c.domain(host); v != "" {
				return v
			}
		}
	}
}

func (c *Conf) domain(name string) string {
	for _, n := range c.p.relations("domain_realm") {
		if strings.EqualFold(n.name, name) {
			return n.value
		}
	}
	return ""
}

// server is a KDC by name.
type server struct {
	host, port string
	// tcp: by TCP alone.
	tcp bool
}

// servers are the KDCs of a realm that krb5.conf names; the primary comes last, as
// replicas are there to be asked.
func (c *Conf) servers(realm string) (list []server, err error) {
	names := c.p.values("realms", realm, "kdc")
	names = append(names, c.p.values("realms", realm, "primary_kdc")...)
	names = append(names, c.p.values("realms", realm, "master_kdc")...)
	for _, n := range names {
		for _, f := range strings.Fields(n) {
			s, e := parseServer(f)
			if e != nil {
				err = e
			} else if !slices.Contains(list, s) {
				list = append(list, s)
			}
		}
	}
	if len(list) > 0 {
		err = nil
	}
	return list, err
}

func parseServer(s string) (server, error) {
	var v server
	for _, p := range []string{"tcp/", "udp/", "http/"} {
		rest, found := strings.CutPrefix(s, p)
		if !found {
			continue
		}
		if p == "http/" {
			return v, fmt.Errorf("the KDC %q is behind HTTP, which is not supported; name one with UDP or TCP", clip(s))
		}
		s, v.tcp = rest, p == "tcp/"
	}
	if strings.Contains(s, "://") {
		return v, fmt.Errorf("the KDC %q is a KDC proxy (MS-KKDCP), which is not supported; name one with UDP or TCP", clip(s))
	}
	if strings.HasPrefix(s, "/") {
		return v, fmt.Errorf("the KDC %q is a socket of this host, which is not supported; name one with UDP or TCP", clip(s))
	}
	v.host, v.port = s, "88"
	if h, p, err := net.SplitHostPort(s); err == nil {
		v.host, v.port = h, p
	} else if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		v.host = s[1 : len(s)-1]
	}
	if n, err := strconv.ParseUint(v.port, 10, 16); err != nil || n == 0 || v.host == "" || len(v.host) > 255 {
		return v, fmt.Errorf("the KDC %q is no host with a port", clip(s))
	}
	return v, nil
}

// path are the realms between a client's and a server's, by [capaths], otherwise by
// the names' hierarchy (RFC 4120, Section 1.2).
func (c *Conf) path(client, target string) []string {
	if list := c.p.values("capaths", client, target); len(list) > 0 {
		var out []string
		for _, v := range list {
			for _, r := range strings.Fields(v) {
				if r != "." {
					out = append(out, r)
				}
			}
		}
		return out
	}
	up, down := parents(client), parents(target)
	common := -1
	for i, r := range up {
		if j := slices.Index(down, r); j >= 0 {
			common = i
			down = down[:j]
			break
		}
	}
	if common < 0 {
		return nil
	}
	var out []string
	out = append(out, up[1:max(common+1, 1)]...)
	slices.Reverse(down)
	for _, r := range down {
		if r != target && !slices.Contains(out, r) && r != client {
			out = append(out, r)
		}
	}
	return slices.DeleteFunc(out, func(r string) bool { return r == client || r == target })
}

// parents are a realm and the realms above it by name.
func parents(realm string) []string {
	list := []string{realm}
	for len(list) < 16 {
		_, up, found := strings.Cut(realm, ".")
		if !found {
			return list
		}
		realm = up
		list = append(list, realm)
	}
	return list
}

// absolute is a path that the configuration gives, without the prefix of its type.
func absolute(name, kind string) (string, error) {
	rest := strings.TrimPrefix(name, "FILE:")
	if i := strings.IndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[:i], "/") {
		return "", fmt.Errorf("the %s %q is no file; only those of type FILE are read", kind, clip(name))
	}
	if !path.IsAbs(rest) {
		return "", fmt.Errorf("the %s %q is no absolute path", kind, clip(name))
	}
	return rest, nil
}
