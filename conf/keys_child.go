package conf

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"iked/crypto/suite"
	"iked/spd"
)

type timeDuration = time.Duration

const (
	defaultIKERekey   = 4 * time.Hour
	defaultChildRekey = time.Hour
	maxReplayWindow   = 4096
	defaultPFPLimit   = 256
	defaultPFPIdle    = 5 * time.Minute
)

// MaxPFP is the largest pfp_limit: the CHILD_SAs of one IKE SA are bounded.
const MaxPFP = 1024

func childFields() []field[Child] {
	return append([]field[Child]{
		{key: "start", typ: "always, on-demand, passive", doc: "One knob in place of start_action, close_action and dpd_action. always: set up at once and again whenever it is gone. on-demand: set up when a packet needs it. passive: wait for the peer.", fileOnly: true,
			set: choice(func(c *Child) *Start { return &c.Start }, []string{"always", "on-demand", "passive"}, StartAlways, StartOnDemand, StartPassive)},
		{key: "fail", typ: "closed, open", def: "as the global key", doc: "What happens to the traffic while the tunnel is down: closed drops it, open lets it pass in clear in both directions.", fileOnly: true,
			set: choice(func(c *Child) *Fail { return &c.Fail }, []string{"closed", "open"}, FailClosed, FailOpen)},
		{key: "ah_proposals", typ: "list of proposals", list: true, doc: "AH proposals, best first, as sha256-x25519, in place of ESP: packets are authenticated with their addresses, and not encrypted. In a connection of version 1 or kink together with esp_proposals: both, AH around ESP. AH does not work through a NAT.",
			set: proposals(suite.ProtoAH, func(c *Child) *[]suite.Proposal { return &c.AH })},
		{key: "esp_proposals", typ: "list of proposals", def: "default, none with ah_proposals", list: true, doc: "ESP proposals, best first, as aes128gcm16-x25519. A key exchange method means forward secrecy; without esn there is none.",
			set: proposals(suite.ProtoESP, func(c *Child) *[]suite.Proposal { return &c.Proposals })},
		{key: "local_ts", typ: "list of selectors", def: "dynamic", list: true, doc: "Own traffic selectors, as 10.1.0.0/16[tcp/80]; dynamic is the own address or virtual address.", set: selectors(func(c *Child) *[]TS { return &c.Local })},
		{key: "remote_ts", typ: "list of selectors", def: "dynamic", list: true, doc: "The peer's traffic selectors.", set: selectors(func(c *Child) *[]TS { return &c.Remote })},
		{key: "rekey_time", typ: "time", def: "1h", doc: "Replace the keys after that time; 0: never.", set: duration(func(c *Child) *timeDuration { return &c.Time.Rekey })},
		{key: "life_time", typ: "time", def: "rekey_time and a tenth", doc: "Close the SA after that time; 0: never.", set: duration(func(c *Child) *timeDuration { return &c.Time.Life })},
		{key: "rand_time", typ: "time", def: "life_time - rekey_time", doc: "Up to this is taken off rekey_time at random.", set: duration(func(c *Child) *timeDuration { return &c.Time.Rand })},
		{key: "rekey_bytes", typ: "size", def: "0", doc: "Replace the keys after that many octets; 0: never.", set: sizeOf(func(c *Child) *uint64 { return &c.Bytes.Rekey })},
		{key: "life_bytes", typ: "size", def: "rekey_bytes and a tenth", doc: "Close the SA after that many octets.", set: sizeOf(func(c *Child) *uint64 { return &c.Bytes.Life })},
		{key: "rand_bytes", typ: "size", def: "life_bytes - rekey_bytes", doc: "Up to this is taken off rekey_bytes at random.", set: sizeOf(func(c *Child) *uint64 { return &c.Bytes.Rand })},
		{key: "rekey_packets", typ: "number", def: "0", doc: "Replace the keys after that many packets; 0: never.", set: packets(func(c *Child) *uint64 { return &c.Packets.Rekey })},
		{key: "life_packets", typ: "number", def: "rekey_packets and a tenth", doc: "Close the SA after that many packets.", set: packets(func(c *Child) *uint64 { return &c.Packets.Life })},
		{key: "rand_packets", typ: "number", def: "life_packets - rekey_packets", doc: "Up to this is taken off rekey_packets at random.", set: packets(func(c *Child) *uint64 { return &c.Packets.Rand })},
		{key: "mode", typ: "tunnel, transport, beet, pass, drop", def: "tunnel", doc: "tunnel; transport, for the traffic of the two hosts themselves; beet, for one pair of inner addresses that are not carried in the packets, with strongSwan and this product; or a policy without SA: pass lets the traffic through in clear, drop discards it. strongSwan's transport_proxy is transport with mobility_role. iptfs is not supported by this version.", set: setMode},
		{key: "mode_required", typ: "yes/no", def: "no", doc: "Refuse the CHILD_SA when the peer answers with tunnel mode in place of transport or beet; no takes the tunnel.", fileOnly: true, set: boolean(func(c *Child) *bool { return &c.ModeRequired })},
		{key: "pfp", typ: "list of local_addr, remote_addr, protocol, local_port, remote_port", list: true, doc: "Selectors that an SA takes from the packet that asked for it, in place of the whole of local_ts and remote_ts (populate from packet, RFC 4301, Section 4.4.1.2): one SA for each distinct value. Needs start: on-demand or passive.", fileOnly: true, set: each(setPFP)},
		{key: "pfp_limit", typ: "number", def: "256", doc: "Most CHILD_SAs that packets make with pfp, or with remote_addrs that stand for many peers; what asks for more gets none until one goes.", fileOnly: true,
			set: integer(1, MaxPFP, func(c *Child) *int { return &c.PFPLimit })},
		{key: "policies", typ: "yes/no", def: "yes", doc: "no: the policies of the child are somebody else's, as a mobility manager's, and are neither put in nor changed nor removed. Its SAs are bound to them by reqid; with start: on-demand, or always, packets that meet a policy of that reqid ask for the SAs. fail then says nothing. Kernel backend only.", set: func(_ *loader, c *Child, it *Item) error {
			yes, err := parseBool(it.Value)
			c.OthersPolicies = err == nil && !yes
			return err
		}},
		{key: "policies_fwd_out", typ: "yes/no", def: "no", doc: "yes is not supported by this version.", set: unsupported[Child]("no")},
		{key: "start_action", typ: "none, trap, start, trap|start", def: "none", doc: "What to do when the configuration is loaded.", set: value(parseAction, func(c *Child) *Action { return &c.StartAction })},
		{key: "close_action", typ: "none, trap, start, trap|start", def: "none", doc: "What to do when the peer closes the CHILD_SA.", set: value(parseAction, func(c *Child) *Action { return &c.CloseAction })},
		{key: "dpd_action", typ: "none (clear), trap, start (restart)", def: "none", doc: "What to do when the peer does not answer any more.", set: value(parseAction, func(c *Child) *Action { return &c.DPDAction })},
		{key: "updown", typ: "command", doc: "Not supported by this version.", set: unsupported[Child]("")},
		{key: "hostaccess", typ: "yes/no", def: "no", doc: "About updown.", set: unsupported[Child]("no")},
		{key: "ipcomp", typ: "yes/no", def: "no", doc: "Compress what ESP protects, with DEFLATE, if the peer does as well (RFC 3173). The lengths of packets then tell something of what is in them: whoever can put text into the traffic and sees its packets may guess what else is there.", set: boolean(func(c *Child) *bool { return &c.IPComp })},
		{key: "inactivity", typ: "time", def: "0, 5m where pfp_limit counts", doc: "Close the CHILD_SA when it carried nothing for that long; 0: never.", set: duration(func(c *Child) *timeDuration { return &c.Inactivity })},
		{key: "reqid", typ: "number", def: "0", doc: "Fixed request id; 0: chosen. With policies: no it is that of the policies, and must be given; 0 when they have none.", set: unsigned(0, 1<<32-1, func(c *Child) *uint32 { return &c.ReqID })},
		{key: "reqid_in", typ: "number", def: "as reqid", doc: "With policies: no, the request id of the inbound policy, where each direction has one of its own.", fileOnly: true, set: unsigned(1, 1<<32-1, func(c *Child) *uint32 { return &c.ReqIDIn })},
		{key: "priority", typ: "number", def: "0", doc: "Priority of the policies, the lowest first; 0: computed.", set: unsigned(0, 1<<32-1, func(c *Child) *uint32 { return &c.Priority })},
		{key: "label", typ: "text", doc: "Not supported by this version.", set: unsupported[Child]("")},
		{key: "label_mode", typ: "system, simple, selinux", def: "system", doc: "About label.", set: unsupported[Child]("system")},
		{key: "tfc_padding", typ: "number or mtu", def: "0", doc: "Pad the inner packets to that many octets, or to the path MTU.", set: setTFC},
		{key: "replay_window", typ: "number", def: "32", doc: "Anti-replay window in packets, at most 4096; 0 switches the check off.", set: unsigned(0, maxReplayWindow, func(c *Child) *uint32 { return &c.ReplayWindow })},
		{key: "sha256_96", typ: "yes/no", def: "no", doc: "HMAC-SHA2-256 cut to 96 bits, as some old peers have it.", set: boolean(func(c *Child) *bool { return &c.SHA256_96 })},
		{key: "copy_df", typ: "yes/no", def: "yes", doc: "Copy the don't-fragment bit to the tunnel header; no clears it.", set: func(_ *loader, c *Child, it *Item) error {
			yes, err := parseBool(it.Value)
			c.DF = DFClear
			if yes {
				c.DF = DFCopy
			}
			return err
		}},
		{key: "df", typ: "copy, set, clear", def: "copy", doc: "The don't-fragment bit of the tunnel header (RFC 4301, Section 8.1), in place of copy_df.", fileOnly: true,
			set: choice(func(c *Child) *DF { return &c.DF }, []string{"copy", "set", "clear"}, DFCopy, DFSet, DFClear)},
		{key: "copy_ecn", typ: "yes/no", def: "yes", doc: "Carry the ECN field across the tunnel (RFC 6040).", set: boolean(func(c *Child) *bool { return &c.CopyECN })},
		{key: "copy_dscp", typ: "out, in, yes, no", def: "out", doc: "Carry the DSCP field: to the tunnel header, from it, both, neither.",
			set: choice(func(c *Child) *CopyDSCP { return &c.CopyDSCP }, []string{"out", "in", "yes", "no"}, DSCPOut, DSCPIn, DSCPBoth, DSCPNo)},
		{key: "per_cpu_sas", typ: "yes/no, encap", def: "no", doc: "Not supported by this version.", set: unsupported[Child]("no")},
		{key: "icmp", typ: "yes/no", def: "no", doc: "Not supported by this version.", set: unsupported[Child]("no")},
	}, routeFields()...)
}

func packets(at func(*Child) *uint64) setter[Child] {
	return value(func(s string) (uint64, error) { return parseUint(s, 64) }, at)
}

func selectors(at func(*Child) *[]TS) setter[Child] {
	return each(func(_ *loader, c *Child, s string) error {
		ts, err := ParseTS(s)
		if err == nil {
			*at(c) = append(*at(c), ts)
		}
		return err
	})
}

func setMode(_ *loader, c *Child, it *Item) error {
	switch it.Value {
	case "tunnel":
		c.Mode = ModeTunnel
	case "transport":
		c.Mode = ModeTransport
	case "beet":
		c.Mode = ModeBEET
	case "pass":
		c.Mode = ModePass
	case "drop":
		c.Mode = ModeDrop
	case "transport_proxy":
		return refuse("use mode: transport, and mobility_role in the connection", "mode %s, which is for Mobile IPv6, is transport with a role here", it.Value)
	case "iptfs":
		return refuse("use tunnel", "not supported by this version: mode %s", it.Value)
	default:
		return refuse("", "expected tunnel, transport, beet, pass or drop, found %s", quote(it.Value))
	}
	return nil
}

// pfpNames are the flags of the key pfp, in their order.
var pfpNames = []string{"local_addr", "remote_addr", "protocol", "local_port", "remote_port"}

func setPFP(_ *loader, c *Child, s string) error {
	i := slices.Index(pfpNames, s)
	if i < 0 {
		return fmt.Errorf("expected some of %s, found %s", strings.Join(pfpNames, ", "), quote(s))
	}
	c.PFP |= spd.PFPLocalAddr << i
	return nil
}

// PFPNames are the names of flags, as the configuration has them.
func PFPNames(f spd.PFP) []string {
	var out []string
	for i, n := range pfpNames {
		if f&(spd.PFPLocalAddr<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

func setTFC(_ *loader, c *Child, it *Item) error {
	if it.Value == "mtu" {
		c.TFCPadding = TFCToMTU
		return nil
	}
	n, err := parseUint(it.Value, 16)
	c.TFCPadding = uint32(n)
	return err
}

func newChild(name string, pos Pos) *Child {
	return &Child{Name: name, PFPLimit: defaultPFPLimit, ReplayWindow: 32, CopyECN: true, pos: pos}
}

// complete sets what depends on which keys were given.
func (c *Child) complete(given map[string]bool) {
	c.idleGiven, c.reqIDGiven = given["inactivity"], given["reqid"]
	if len(c.Proposals) == 0 {
		c.Proposals, c.AH = c.AH, nil
	}
	if len(c.Proposals) == 0 {
		c.Proposals = suite.Defaults(suite.ProtoESP)
	}
	dynamic, _ := ParseTS("dynamic")
	if len(c.Local) == 0 {
		c.Local = []TS{dynamic}
	}
	if len(c.Remote) == 0 {
		c.Remote = []TS{dynamic}
	}
	// One rule for the three units: the soft limit comes from the hard one if only
	// that is given, the hard one is the soft one and a tenth, the jitter what lies
	// between.
	rekey, life, rnd := uint64(c.Time.Rekey), uint64(c.Time.Life), uint64(c.Time.Rand)
	derive(given, "time", uint64(defaultChildRekey), &rekey, &life, &rnd)
	c.Time = TimeLimit{time.Duration(rekey), time.Duration(life), time.Duration(rnd)}
	derive(given, "bytes", 0, &c.Bytes.Rekey, &c.Bytes.Life, &c.Bytes.Rand)
	derive(given, "packets", 0, &c.Packets.Rekey, &c.Packets.Life, &c.Packets.Rand)
	c.completeRoute(given)
	switch c.Start {
	case StartAlways:
		c.StartAction, c.CloseAction, c.DPDAction = ActionTrap|ActionStart, ActionTrap|ActionStart, ActionTrap|ActionStart
	case StartOnDemand:
		c.StartAction, c.CloseAction, c.DPDAction = ActionTrap, ActionTrap, ActionTrap
	case StartPassive:
		c.StartAction, c.CloseAction, c.DPDAction = 0, 0, 0
	}
}

func derive(given map[string]bool, unit string, def uint64, rekey, life, rnd *uint64) {
	if !given["rekey_"+unit] {
		*rekey = def
		if given["life_"+unit] {
			*rekey = *life - *life/11
		}
	}
	if !given["life_"+unit] {
		*life = *rekey + *rekey/10
	}
	if !given["rand_"+unit] {
		*rnd = *life - min(*life, *rekey)
	}
}
