package conf

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

func globalFields() []field[Global] {
	return []field[Global]{
		{key: "port", typ: "number", def: "500", doc: "UDP port of IKE.", set: unsigned(1, 65535, func(g *Global) *uint16 { return &g.Port })},
		{key: "port_nat_t", typ: "number", def: "4500", doc: "UDP port of IKE and ESP behind a NAT.", set: unsigned(1, 65535, func(g *Global) *uint16 { return &g.PortNATT })},
		{key: "port_kink", typ: "number", def: "910", doc: "UDP port of KINK. It is opened when a connection has version: kink.", set: unsigned(1, 65535, func(g *Global) *uint16 { return &g.PortKINK })},
		{key: "krb5_conf", typ: "file", def: "/etc/krb5.conf", doc: "Where the KDCs of the realms are, in the form of MIT and Heimdal; several with a colon between them.", set: text(func(g *Global) *string { return &g.Krb5Conf })},
		{key: "krb5_etypes", typ: "list of names", list: true, def: "those of krb5_conf", doc: "Encryption types of Kerberos that are asked for and accepted, best first, as aes256-cts-hmac-sha384-192, aes128-cts-hmac-sha256-128, aes256-cts-hmac-sha1-96, aes128-cts-hmac-sha1-96. Triple DES is there only when it is named: des3-cbc-sha1.", set: func(_ *loader, g *Global, it *Item) error {
			g.ETypes = strings.Join(it.List, " ")
			return nil
		}},
		{key: "backend", typ: "auto, kernel, userspace", def: "auto", doc: "What carries the traffic; the command line wins. auto: the kernel when it can carry all that is configured, else the userspace datapath.",
			set: choice(func(g *Global) *Backend { return &g.Backend }, []string{"auto", "kernel", "userspace"}, BackendAuto, BackendKernel, BackendUserspace)},
		{key: "fail", typ: "closed, open", def: "closed", doc: "What happens to the traffic of a tunnel while it is down: closed drops it, open lets it pass in clear in both directions.",
			set: choice(func(g *Global) *Fail { return &g.Fail }, []string{"closed", "open"}, FailClosed, FailOpen)},
		bypassField(),
		{key: "keep_alive", typ: "time", def: "20s", doc: "Interval of NAT keepalives; 0: none.", set: duration(func(g *Global) *timeDuration { return &g.KeepAlive })},
		{key: "fragment_size", typ: "number", def: "0", doc: "Largest IKE datagram in octets, IP and UDP headers included; 0: by address family.", set: value(func(s string) (int, error) {
			n, err := parseUint(s, 16)
			if err != nil || n != 0 && n < 576 {
				return 0, fmt.Errorf("expected 0 or a number from 576 to 65535, found %s", quote(s))
			}
			return int(n), nil
		}, func(g *Global) *int { return &g.FragmentSize })},
		{key: "xauth_hook", typ: "path", doc: "IKEv1: the program that knows the users of connections with auth: xauth-hook. It and every folder above it must be root's, and nobody else may write there. docs/ikev1.md says what it reads.", set: value(func(s string) (string, error) {
			if !filepath.IsAbs(s) || filepath.Clean(s) != s {
				return "", fmt.Errorf("expected the whole path of a program, found %s", quote(s))
			}
			return s, nil
		}, func(g *Global) *string { return &g.XAuthHook })},
		{key: "min_rsa_bits", typ: "number", def: "2048", doc: "Smallest RSA key in the certificates of peers and their CAs.", set: integer(1024, 16384, func(g *Global) *int { return &g.MinRSABits })},
	}
}

func logFields() []field[Log] {
	return []field[Log]{
		{key: "level", typ: "error, warn, info, debug, trace", def: "info", doc: "How much is logged; the command line wins.", set: choice(func(g *Log) *string { return &g.Level }, logLevels, logLevels...)},
		{key: "format", typ: "text, json", def: "text", doc: "How it is written; the command line wins.", set: choice(func(g *Log) *string { return &g.Format }, []string{"text", "json"}, "text", "json")},
	}
}

var logLevels = []string{"error", "warn", "info", "debug", "trace"}

func controlFields() []field[Control] {
	return []field[Control]{
		{key: "socket", typ: "URI", def: "unix:///run/iked/iked.vici", doc: "Control socket; the command line wins.", set: value(func(s string) (string, error) {
			if !strings.HasPrefix(s, "unix://") && !strings.HasPrefix(s, "tcp://") {
				return "", fmt.Errorf("expected unix:///path or tcp://host:port, found %s", quote(s))
			}
			return s, nil
		}, func(c *Control) *string { return &c.Socket })},
		{key: "owner", typ: "user", def: "the daemon's", doc: "Owner of the socket, name or number.", set: text(func(c *Control) *string { return &c.Owner })},
		{key: "group", typ: "group", def: "the daemon's", doc: "Group of the socket, name or number.", set: text(func(c *Control) *string { return &c.Group })},
		{key: "mode", typ: "octal number", def: "0600", doc: "Permission bits of the socket.", set: value(func(s string) (uint32, error) {
			n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 9)
			if err != nil {
				return 0, fmt.Errorf("expected permission bits such as 0660, found %s", quote(s))
			}
			return uint32(n), nil
		}, func(c *Control) *uint32 { return &c.Mode })},
	}
}

func datapathFields() []field[Datapath] {
	return []field[Datapath]{
		{key: "mtu", typ: "number", def: "0", doc: "MTU of the TUN device; 0: 1400, so that most packets fit a path of 1500 when they are sealed.", set: value(func(s string) (int, error) {
			n, err := parseUint(s, 16)
			if err != nil || n != 0 && n < 576 {
				return 0, fmt.Errorf("expected 0 or a number from 576 to 65535, found %s", quote(s))
			}
			return int(n), nil
		}, func(d *Datapath) *int { return &d.MTU })},
		{key: "queues", typ: "number", def: "0", doc: "Queues of the TUN device, each with its worker; 0: one per CPU.", set: integer(0, 256, func(d *Datapath) *int { return &d.Queues })},
		{key: "device", typ: "name", def: "ipsec0", doc: "Name of the TUN device. With the kernel backend: of the device that gets virtual addresses.", set: value(func(s string) (string, error) {
			if s == "" || len(s) > 15 || strings.ContainsAny(s, "/ \t\n") {
				return "", fmt.Errorf("expected an interface name of at most 15 letters, found %s", quote(s))
			}
			return s, nil
		}, func(d *Datapath) *string { return &d.Device })},
		{key: "table", typ: "number", def: "220", doc: "Routing table for the remote selectors.", set: integer(1, 1<<31-1, func(d *Datapath) *int { return &d.Table })},
		{key: "rule_priority", typ: "number", def: "220", doc: "Priority of the rule that looks at that table.", set: integer(1, 32765, func(d *Datapath) *int { return &d.RulePrio })},
		{key: "mark", typ: "number", def: "0x696b65", doc: "Firewall mark of the daemon's own packets, which lets them pass by that table.", set: unsigned(1, 1<<32-1, func(d *Datapath) *uint32 { return &d.Mark })},
		{key: "hop_limit", typ: "number", def: "64", doc: "TTL or hop limit of the tunnel header.", set: unsigned(1, 255, func(d *Datapath) *uint8 { return &d.HopLimit })},
		{key: "reassembly_memory", typ: "size", def: "4M", doc: "Memory for fragments that wait for the others.", set: value(func(s string) (uint64, error) {
			n, err := ParseBytes(s)
			if err == nil && (n < 1<<16 || n > 1<<30) {
				err = fmt.Errorf("expected a size from 64k to 1g, found %s", quote(s))
			}
			return n, err
		}, func(d *Datapath) *uint64 { return &d.FragMemory })},
		{key: "acquire_queue", typ: "number", def: "8", doc: "Packets that wait while their SA is negotiated, for each policy and, with pfp, each SA; 0: none, the first packets are lost.", set: integer(0, 256, func(d *Datapath) *int { return &d.AcquireQueue })},
	}
}

func limitsFields() []field[Limits] {
	return []field[Limits]{
		{key: "half_open", typ: "number", def: "1000", doc: "Half-open IKE SAs in all; more are not answered.", set: integer(1, 1<<30, func(m *Limits) *int { return &m.HalfOpen })},
		{key: "half_open_per_source", typ: "number", def: "10", doc: "Half-open IKE SAs of one address.", set: integer(1, 1<<30, func(m *Limits) *int { return &m.HalfOpenPerSource })},
		{key: "cookie_threshold", typ: "number", def: "30", doc: "Half-open IKE SAs from which on a peer must send back a cookie; one whose address has half of half_open_per_source must anyway. 0: never.", set: integer(0, 1<<30, func(m *Limits) *int { return &m.CookieThreshold })},
		{key: "rate_per_source", typ: "number", def: "50", doc: "IKE_SA_INIT requests of one address per second; 0: no limit.", set: integer(0, 1<<30, func(m *Limits) *int { return &m.RatePerSource })},
		{key: "half_open_timeout", typ: "time", def: "30s", doc: "How long a peer may take to authenticate.", set: positive(func(m *Limits) *timeDuration { return &m.HalfOpenTimeout })},
		{key: "ike_sas", typ: "number", def: "0", doc: "IKE SAs in all; 0: no limit.", set: integer(0, 1<<30, func(m *Limits) *int { return &m.IKESAs })},
	}
}

func retransmitFields() []field[Retransmit] {
	return []field[Retransmit]{
		{key: "timeout", typ: "time", def: "2s", doc: "First wait.", set: positive(func(r *Retransmit) *timeDuration { return &r.Timeout })},
		{key: "base", typ: "number", def: "1.8", doc: "Each wait is that much longer than the one before.", set: value(func(s string) (float64, error) {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil || !(f >= 1 && f <= 10) {
				return 0, fmt.Errorf("expected a number from 1 to 10, found %s", quote(s))
			}
			return f, nil
		}, func(r *Retransmit) *float64 { return &r.Base })},
		{key: "tries", typ: "number", def: "5", doc: "Retransmissions before the peer counts as dead.", set: integer(1, 100, func(r *Retransmit) *int { return &r.Tries })},
		{key: "max", typ: "time", def: "0", doc: "Longest wait; 0: no limit.", set: duration(func(r *Retransmit) *timeDuration { return &r.Max })},
		{key: "jitter", typ: "percent", def: "10", doc: "Each wait varies by up to that much.", set: integer(0, 50, func(r *Retransmit) *int { return &r.Jitter })},
	}
}

// Defaults are the global settings of an empty configuration.
func Defaults() Global {
	return Global{
		Port: 500, PortNATT: 4500, PortKINK: 910, Backend: BackendAuto, Fail: FailClosed, Bypass: BypassND | BypassIKE | BypassDHCP, KeepAlive: 20 * second, MinRSABits: 2048,
		Control:    Control{Mode: 0o600},
		Datapath:   Datapath{Device: "ipsec0", Table: 220, RulePrio: 220, Mark: 0x696b65, HopLimit: 64, FragMemory: 4 << 20, AcquireQueue: 8},
		Limits:     Limits{HalfOpen: 1000, HalfOpenPerSource: 10, CookieThreshold: 30, RatePerSource: 50, HalfOpenTimeout: 30 * second},
		Retransmit: Retransmit{Timeout: 2 * second, Base: 1.8, Tries: 5, Jitter: 10},
	}
}

const second = timeDuration(1e9)
