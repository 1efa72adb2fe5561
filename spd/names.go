package spd

// protocolNames are the names that selectors are printed with (IANA Protocol
// Numbers, as a usual /etc/protocols spells them). The host's own file is never
// read: a selector must mean the same everywhere.
var protocolNames = map[uint8]string{
	1: "icmp", 2: "igmp", 4: "ipencap", 6: "tcp", 8: "egp", 17: "udp", 33: "dccp", 41: "ipv6",
	43: "ipv6-route", 44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah",
	58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts", 88: "eigrp", 89: "ospf",
	94: "ipip", 97: "etherip", 98: "encap", 103: "pim", 108: "ipcomp", 112: "vrrp",
	115: "l2tp", 124: "isis", 132: "sctp", 135: "mobility-header", 136: "udplite",
	137: "mpls-in-ip", 139: "hip", 140: "shim6", 141: "wesp",
}

// protocolAliases are other names that are read.
var protocolAliases = map[string]uint8{
	"icmpv6": 58, "icmp6": 58, "mh": 135, "ospfigp": 89, "ipip4": 4, "ip": 0, "any": 0, "": 0,
}

type transports uint8

const (
	onTCP transports = 1 << iota
	onUDP
	onSCTP
)

type service struct {
	port uint16
	name string
	on   transports
}

// services are the port names that are read and printed (IANA Service Names).
var services = [...]service{
	{7, "echo", onTCP | onUDP}, {9, "discard", onTCP | onUDP}, {13, "daytime", onTCP | onUDP},
	{20, "ftp-data", onTCP}, {21, "ftp", onTCP}, {22, "ssh", onTCP}, {23, "telnet", onTCP},
	{25, "smtp", onTCP}, {37, "time", onTCP | onUDP}, {49, "tacacs", onTCP | onUDP},
	{53, "domain", onTCP | onUDP}, {67, "bootps", onUDP}, {68, "bootpc", onUDP}, {69, "tftp", onUDP},
	{80, "http", onTCP}, {88, "kerberos", onTCP | onUDP}, {110, "pop3", onTCP}, {111, "sunrpc", onTCP | onUDP},
	{119, "nntp", onTCP}, {123, "ntp", onUDP}, {137, "netbios-ns", onUDP}, {138, "netbios-dgm", onUDP},
	{139, "netbios-ssn", onTCP}, {143, "imap2", onTCP}, {161, "snmp", onTCP | onUDP},
	{162, "snmp-trap", onTCP | onUDP}, {179, "bgp", onTCP}, {389, "ldap", onTCP | onUDP},
	{443, "https", onTCP | onUDP}, {445, "microsoft-ds", onTCP}, {464, "kpasswd", onTCP | onUDP},
	{465, "submissions", onTCP}, {500, "isakmp", onUDP}, {514, "syslog", onUDP}, {515, "printer", onTCP},
	{520, "route", onUDP}, {546, "dhcpv6-client", onUDP}, {547, "dhcpv6-server", onUDP},
	{554, "rtsp", onTCP | onUDP}, {587, "submission", onTCP}, {631, "ipp", onTCP}, {636, "ldaps", onTCP | onUDP},
	{853, "domain-s", onTCP | onUDP}, {873, "rsync", onTCP}, {989, "ftps-data", onTCP}, {990, "ftps", onTCP},
	{993, "imaps", onTCP}, {995, "pop3s", onTCP}, {1194, "openvpn", onTCP | onUDP}, {1701, "l2f", onUDP},
	{1812, "radius", onUDP}, {1813, "radius-acct", onUDP}, {2049, "nfs", onTCP | onUDP},
	{3260, "iscsi-target", onTCP}, {3306, "mysql", onTCP}, {3389, "ms-wbt-server", onTCP},
	{4500, "ipsec-nat-t", onUDP}, {5060, "sip", onTCP | onUDP}, {5061, "sip-tls", onTCP | onUDP},
	{5353, "mdns", onUDP}, {5432, "postgresql", onTCP}, {5672, "amqp", onTCP | onSCTP}, {6379, "redis", onTCP},
	{6514, "syslog-tls", onTCP}, {8080, "http-alt", onTCP | onUDP},
}

// on is the set of transports that a protocol number can mean; protocol ANY
// means all of them.
func on(proto uint8) transports {
	switch proto {
	case 0:
		return onTCP | onUDP | onSCTP
	case 6:
		return onTCP
	case 17:
		return onUDP
	case 132:
		return onSCTP
	}
	return 0
}

func serviceName(proto uint8, port uint16) (string, bool) {
	for i := range services {
		if services[i].port == port && services[i].on&on(proto) != 0 {
			return services[i].name, true
		}
	}
	return "", false
}

func servicePort(proto uint8, name string) (uint16, bool) {
	for i := range services {
		if services[i].name == name && services[i].on&on(proto) != 0 {
			return services[i].port, true
		}
	}
	return 0, false
}

func protocolNumber(name string) (uint8, bool) {
	if n, ok := protocolAliases[name]; ok {
		return n, true
	}
	for n, s := range protocolNames {
		if s == name {
			return n, true
		}
	}
	return 0, false
}
