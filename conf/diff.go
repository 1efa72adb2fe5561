package conf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"iked/internal/pki"
	"iked/internal/secret"
)

// Changes is the difference of two snapshots: what a reload does.
type Changes struct {
	// Global are the keys at the top that differ; Restart those of them that a
	// running daemon cannot take over.
	Global, Restart []string
	Added, Removed  []*Connection
	Changed         []ConnChange
	Same            []*Connection // of the new snapshot
	// AddedSecrets and RemovedSecrets; a changed secret is in both.
	AddedSecrets, RemovedSecrets         []*Secret
	AddedKeys, RemovedKeys               []*Key
	CertsChanged, CRLsChanged            bool
	RadiusChanged                        bool
	AddedPools, RemovedPools             []*Pool
	ChangedPools                         []PoolChange
	AddedAuthorities, RemovedAuthorities []*Authority // a changed one is in both
}

// ConnChange is a connection that both snapshots have. With IKE it is replaced:
// all start actions are undone and done anew. Otherwise only the children that are
// named here change.
type ConnChange struct {
	Old, New *Connection
	// Keys of the connection itself that differ.
	Keys []string
	// IKE: Keys is not empty.
	IKE            bool
	Added, Removed []*Child
	Changed        []ChildChange
}

// ChildChange is a child that differs.
type ChildChange struct {
	Old, New *Child
	Keys     []string
}

// PoolChange is a pool that differs. Resized: the addresses differ, so that
// leases are lost; otherwise only the attributes do.
type PoolChange struct {
	Old, New *Pool
	Resized  bool
}

// Diff compares two snapshots; old may be nil.
func Diff(old, new *Config) Changes {
	if old == nil {
		old = Empty()
	}
	var c Changes
	c.Global = changedKeys(&old.Global, &new.Global)
	for _, k := range c.Global {
		if slices.Contains([]string{"port", "port_nat_t", "port_kink", "backend", "control", "datapath", "log"}, k) {
			c.Restart = append(c.Restart, k)
		}
	}
	name := func(x *Connection) string { return x.Name }
	c.Added, c.Removed = addedRemoved(old.Connections, new.Connections, name)
	before := index(old.Connections, name)
	for _, n := range new.Connections {
		o, ok := before[n.Name]
		if !ok {
			continue
		}
		if ch := DiffConnection(o, n); ch.Empty() {
			c.Same = append(c.Same, n)
		} else {
			c.Changed = append(c.Changed, ch)
		}
	}
	c.AddedSecrets, c.RemovedSecrets = addedRemoved(old.Secrets, new.Secrets, sum)
	c.AddedKeys, c.RemovedKeys = addedRemoved(old.Keys, new.Keys, func(k *Key) [20]byte { return k.Key.KeyID })
	c.CertsChanged = !same(&old.Certs, &new.Certs)
	c.CRLsChanged = !same(&old.CRLs, &new.CRLs)
	c.RadiusChanged = !same(&old.Radius, &new.Radius)
	pool := func(p *Pool) string { return p.Name }
	c.AddedPools, c.RemovedPools = addedRemoved(old.Pools, new.Pools, pool)
	pools := index(old.Pools, pool)
	for _, n := range new.Pools {
		if o, ok := pools[n.Name]; ok && !same(o, n) {
			c.ChangedPools = append(c.ChangedPools, PoolChange{o, n, o.Base != n.Base || o.Size != n.Size})
		}
	}
	c.AddedAuthorities, c.RemovedAuthorities = addedRemoved(old.Authorities, new.Authorities, sum)
	return c
}

// DiffConnection compares two connections of one name.
func DiffConnection(old, new *Connection) ConnChange {
	ch := ConnChange{Old: old, New: new}
	if old == new || same(old, new) {
		return ch
	}
	o, n := *old, *new
	o.Children, n.Children = nil, nil
	ch.Keys = changedKeys(&o, &n)
	ch.IKE = len(ch.Keys) > 0
	name := func(c *Child) string { return c.Name }
	ch.Added, ch.Removed = addedRemoved(old.Children, new.Children, name)
	before := index(old.Children, name)
	for _, x := range new.Children {
		y, ok := before[x.Name]
		if !ok {
			continue
		}
		if keys := changedKeys(y, x); len(keys) > 0 {
			ch.Changed = append(ch.Changed, ChildChange{y, x, keys})
		}
	}
	return ch
}

// SameSecret tells whether two shared secrets say the same.
func SameSecret(a, b *Secret) bool { return same(a, b) }

// Empty tells whether nothing differs.
func (c *ConnChange) Empty() bool {
	return !c.IKE && len(c.Added)+len(c.Removed)+len(c.Changed) == 0
}

// Empty tells whether nothing differs.
func (c *Changes) Empty() bool { return len(c.Lines()) == 0 }

// String is the plan as a text.
func (c *Changes) String() string { return strings.Join(c.Lines(), "\n") }

// Lines are the plan, a line for each change; none when nothing changes. No secret
// is in it.
func (c *Changes) Lines() []string {
	var b []string
	line := func(format string, a ...any) { b = append(b, fmt.Sprintf(format, a...)) }
	for _, k := range c.Global {
		if slices.Contains(c.Restart, k) {
			line("~ %s: takes effect when the daemon is restarted", k)
		} else {
			line("~ %s", k)
		}
	}
	for _, x := range c.Removed {
		line("- connection %s: unloaded, what it started is undone", x.Name)
	}
	for _, x := range c.Changed {
		if x.IKE {
			line("~ connection %s: replaced, because of %s", x.New.Name, strings.Join(x.Keys, ", "))
			continue
		}
		for _, ch := range x.Removed {
			line("- child %s/%s: what it started is undone", x.New.Name, ch.Name)
		}
		for _, ch := range x.Changed {
			line("~ child %s/%s: replaced, because of %s", x.New.Name, ch.New.Name, strings.Join(ch.Keys, ", "))
		}
		for _, ch := range x.Added {
			line("+ child %s/%s: %s", x.New.Name, ch.Name, ch.startText())
		}
	}
	for _, x := range c.Added {
		line("+ connection %s", x.Name)
		for _, ch := range x.Children {
			line("+ child %s/%s: %s", x.Name, ch.Name, ch.startText())
		}
	}
	for _, s := range c.RemovedSecrets {
		line("- secret %s", s.label())
	}
	for _, s := range c.AddedSecrets {
		line("+ secret %s", s.label())
	}
	for _, k := range c.RemovedKeys {
		line("- private key %x", k.Key.KeyID)
	}
	for _, k := range c.AddedKeys {
		line("+ private key %x", k.Key.KeyID)
	}
	if c.CertsChanged {
		line("~ certificates")
	}
	if c.CRLsChanged {
		line("~ certificate revocation lists")
	}
	if c.RadiusChanged {
		line("~ RADIUS servers")
	}
	for _, p := range c.RemovedPools {
		line("- pool %s", p.Name)
	}
	for _, p := range c.ChangedPools {
		if p.Resized {
			line("~ pool %s: other addresses, leases end", p.New.Name)
		} else {
			line("~ pool %s: attributes", p.New.Name)
		}
	}
	for _, p := range c.AddedPools {
		line("+ pool %s", p.Name)
	}
	for _, a := range c.RemovedAuthorities {
		line("- authority %s", a.Name)
	}
	for _, a := range c.AddedAuthorities {
		line("+ authority %s", a.Name)
	}
	return b
}

func (c *Child) startText() string {
	switch {
	case c.Mode == ModePass:
		return "its traffic passes in clear"
	case c.Mode == ModeDrop:
		return "its traffic is dropped"
	case c.StartAction&ActionStart != 0:
		return "is set up now"
	case c.StartAction&ActionTrap != 0:
		return "is set up when traffic needs it"
	}
	return "waits for the peer"
}

func (s *Secret) label() string {
	if len(s.Owners) == 0 {
		return "of everybody"
	}
	var o []string
	for _, id := range s.Owners {
		o = append(o, id.String())
	}
	return "of " + strings.Join(o, ", ")
}

// index finds the elements of a list by name; the first of a name counts.
func index[T any, K comparable](list []T, key func(T) K) map[K]T {
	m := make(map[K]T, len(list))
	for _, x := range list {
		k := key(x)
		if _, ok := m[k]; !ok {
			m[k] = x
		}
	}
	return m
}

func addedRemoved[T any, K comparable](old, new []T, key func(T) K) (added, removed []T) {
	before, after := index(old, key), index(new, key)
	for _, x := range new {
		if _, ok := before[key(x)]; !ok {
			added = append(added, x)
		}
	}
	for _, x := range old {
		if _, ok := after[key(x)]; !ok {
			removed = append(removed, x)
		}
	}
	return added, removed
}

// changedKeys names the exported fields of two structs that differ, as keys.
func changedKeys[T any](a, b *T) []string {
	var keys []string
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	var one, other []byte
	for i := range x.NumField() {
		f := x.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		one, other = appendValue(one[:0], x.Field(i)), appendValue(other[:0], y.Field(i))
		if bytes.Equal(one, other) {
			continue
		}
		k := keyOf(f.Name)
		if c, ok := childKeys[f.Name]; ok && x.Type() == reflect.TypeFor[Child]() {
			k = c
		}
		keys = append(keys, k)
	}
	return keys
}

var childKeys = map[string]string{"Local": "local_ts", "Remote": "remote_ts", "Proposals": "esp_proposals or ah_proposals", "AH": "ah_proposals", "IPComp": "ipcomp", "PFP": "pfp", "PFPLimit": "pfp_limit", "OthersPolicies": "policies", "ReqIDIn": "reqid_in", "MarkInSA": "mark_in_sa", "Offload": "hw_offload"}

// keyOf is the key of a field: LocalAddrs is local_addrs.
func keyOf(name string) string {
	special := map[string]string{
		"VIPs": "vips", "PortNATT": "port_nat_t", "PortKINK": "port_kink", "Krb5Conf": "krb5_conf", "ETypes": "krb5_etypes", "Racoon2": "kink_compat", "NoNATs": "nat_traversal", "UserToUser": "kink_user_to_user", "SHA256_96": "sha256_96", "XAuthHook": "xauth_hook", "MinRSABits": "min_rsa_bits", "Time": "rekey_time, life_time or rand_time",
		"Bytes": "rekey_bytes, life_bytes or rand_bytes", "Packets": "rekey_packets, life_packets or rand_packets",
		"SendCertReq": "send_certreq", "KeyingTries": "keyingtries", "ReqID": "reqid", "Local": "local", "Remote": "remote",
		"Homes": "home_addresses", "IfIDIn": "if_id_in", "IfIDOut": "if_id_out",
	}
	if k, ok := special[name]; ok {
		return k
	}
	var b strings.Builder
	r := []rune(name)
	for i, c := range r {
		if unicode.IsUpper(c) && i > 0 && (unicode.IsLower(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// same compares what two values say; places in files do not count.
func same[T any](a, b *T) bool {
	x, y := appendValue(make([]byte, 0, 4096), reflect.ValueOf(a)), appendValue(make([]byte, 0, 4096), reflect.ValueOf(b))
	defer func() { clear(x); clear(y) }()
	return bytes.Equal(x, y)
}

// sum is a hash over what a value says.
func sum[T any](v *T) [32]byte {
	b := appendValue(nil, reflect.ValueOf(v))
	defer clear(b)
	return sha256.Sum256(b)
}

// appendValue writes all that a value says, so that different values are
// different octets. Unexported fields are places in files; they are left out.
func appendValue(b []byte, v reflect.Value) []byte {
	number := func(n uint64) { b = binary.BigEndian.AppendUint64(b, n) }
	octets := func(o []byte) { number(uint64(len(o))); b = append(b, o...) }
	switch v.Type() {
	case typeSecret:
		octets(v.Interface().(secret.Bytes).Reveal())
		return b
	case typeAddr:
		a, _ := v.Interface().(netip.Addr).MarshalBinary()
		octets(a)
		return b
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return append(b, 0)
		}
		b = append(b, 1)
		switch v.Type() {
		case typeCert:
			octets(v.Interface().(*pki.Cert).X509.Raw)
		case typeCRL:
			octets(v.Interface().(*pki.CRL).List.Raw)
		case typeKey:
			octets(v.Interface().(*pki.Key).KeyID[:])
		default:
			return appendValue(b, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				b = appendValue(b, v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		number(uint64(v.Len()))
		for i := range v.Len() {
			b = appendValue(b, v.Index(i))
		}
	case reflect.String:
		number(uint64(v.Len()))
		b = append(b, v.String()...)
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1)
		}
		return append(b, 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		number(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		number(v.Uint())
	case reflect.Float32, reflect.Float64:
		number(math.Float64bits(v.Float()))
	default:
		panic("conf: a value of kind " + v.Kind().String() + " in the model cannot be compared")
	}
	return b
}

var (
	typeSecret = reflect.TypeFor[secret.Bytes]()
	typeAddr   = reflect.TypeFor[netip.Addr]()
	typeCert   = reflect.TypeFor[*pki.Cert]()
	typeCRL    = reflect.TypeFor[*pki.CRL]()
	typeKey    = reflect.TypeFor[*pki.Key]()
)
