package main

import (
	"strconv"

	"iked/vici/wire"
)

// The views are what ikectl shows: the same values as text and as JSON. Times
// are seconds; a pointer is null where nothing is known.

type saView struct {
	Name         string      `json:"name"`
	ID           uint64      `json:"id"`
	Version      string      `json:"version"`
	State        string      `json:"state"`
	Local        endView     `json:"local"`
	Remote       endView     `json:"remote"`
	Initiator    bool        `json:"initiator"`
	SPIInitiator string      `json:"spi_initiator"`
	SPIResponder string      `json:"spi_responder"`
	NATLocal     bool        `json:"nat_local"`
	NATRemote    bool        `json:"nat_remote"`
	NATFake      bool        `json:"nat_forced"`
	Proposal     algView     `json:"algorithms"`
	Established  *int64      `json:"established_seconds"`
	RekeyIn      *int64      `json:"rekey_in_seconds"`
	ReauthIn     *int64      `json:"reauth_in_seconds"`
	LocalVIPs    []string    `json:"local_vips"`
	RemoteVIPs   []string    `json:"remote_vips"`
	User         string      `json:"xauth_user,omitempty"`
	Banner       string      `json:"banner,omitempty"`
	Domain       string      `json:"domain,omitempty"`
	Networks     []string    `json:"split_include,omitempty"`
	HomePrefixes []string    `json:"home_prefixes,omitempty"`
	HomeAgent    []string    `json:"home_agent,omitempty"`
	TasksQueued  []string    `json:"tasks_queued"`
	TasksActive  []string    `json:"tasks_active"`
	Children     []childView `json:"children"`
}

type endView struct {
	Address string `json:"address"`
	Port    string `json:"port"`
	ID      string `json:"id"`
}

type algView struct {
	Encryption     string `json:"encryption,omitempty"`
	EncryptionBits string `json:"encryption_bits,omitempty"`
	Integrity      string `json:"integrity,omitempty"`
	PRF            string `json:"prf,omitempty"`
	KE             string `json:"key_exchange,omitempty"`
	ESN            bool   `json:"esn"`
}

type childView struct {
	Name       string   `json:"name"`
	ID         uint64   `json:"id"`
	ReqID      uint64   `json:"reqid"`
	ReqIDIn    string   `json:"reqid_in,omitempty"` // of the inbound SA, where it is another one
	State      string   `json:"state"`
	Mode       string   `json:"mode"`
	Protocol   string   `json:"protocol"`
	UDPEncap   bool     `json:"udp_encap"`
	SPIIn      string   `json:"spi_in"`
	SPIOut     string   `json:"spi_out"`
	CPIIn      string   `json:"cpi_in,omitempty"`
	CPIOut     string   `json:"cpi_out,omitempty"`
	IfID       string   `json:"if_id,omitempty"`
	MarkIn     string   `json:"mark_in,omitempty"`
	MarkOut    string   `json:"mark_out,omitempty"`
	Algorithms algView  `json:"algorithms"`
	AH         *ahView  `json:"ah,omitempty"`
	In         trafView `json:"in"`
	Out        trafView `json:"out"`
	MTU        *int64   `json:"mtu"`
	RekeyIn    *int64   `json:"rekey_in_seconds"`
	ExpiresIn  *int64   `json:"expires_in_seconds"`
	Installed  *int64   `json:"installed_seconds"`
	LocalTS    []string `json:"local_ts"`
	RemoteTS   []string `json:"remote_ts"`
}

// ahView is the AH around the ESP of a CHILD_SA.
type ahView struct {
	SPIIn     string `json:"spi_in"`
	SPIOut    string `json:"spi_out"`
	Integrity string `json:"integrity"`
	ESN       bool   `json:"esn"`
	Replayed  uint64 `json:"replayed,omitempty"`
	BadICV    uint64 `json:"bad_icv,omitempty"`
}

type trafView struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	LastUse *int64 `json:"last_use_seconds_ago"`
	// Refused by the replay window and by the integrity check; inbound only.
	Replayed uint64 `json:"replayed,omitempty"`
	BadICV   uint64 `json:"bad_icv,omitempty"`
}

type connView struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	LocalAddrs  []string `json:"local_addrs"`
	RemoteAddrs []string `json:"remote_addrs"`
	LocalID     string   `json:"local_id"`
	RemoteID    string   `json:"remote_id"`
	LocalAuth   string   `json:"local_auth"`
	RemoteAuth  string   `json:"remote_auth"`
	// Role is this side's part in Mobile IPv6, HomeAddresses what the peer may have.
	Role          string   `json:"mobility_role,omitempty"`
	HomeAddresses []string `json:"home_addresses,omitempty"`
	// KMAddress is where IKE begins as a mobility manager told, local and remote, Unused
	// why it does not.
	KMAddress       []string        `json:"kmaddress,omitempty"`
	KMAddressUnused string          `json:"kmaddress_unused,omitempty"`
	Up              bool            `json:"up"`
	Children        []connChildView `json:"children"`
}

type connChildView struct {
	Name     string   `json:"name"`
	Mode     string   `json:"mode"`
	Start    string   `json:"start,omitempty"`
	LocalTS  []string `json:"local_ts"`
	RemoteTS []string `json:"remote_ts"`
	// Policies is "no" when they are somebody else's, of these request ids.
	Policies string `json:"policies,omitempty"`
	ReqID    string `json:"reqid,omitempty"`
	ReqIDIn  string `json:"reqid_in,omitempty"`
	Up       bool   `json:"up"`
}

type policyView struct {
	Name     string   `json:"name"`
	Child    string   `json:"child"`
	Conn     string   `json:"connection"`
	Mode     string   `json:"mode"`
	ReqID    string   `json:"reqid,omitempty"`
	IfID     string   `json:"if_id,omitempty"`
	MarkIn   string   `json:"mark_in,omitempty"`
	MarkOut  string   `json:"mark_out,omitempty"`
	LocalTS  []string `json:"local_ts"`
	RemoteTS []string `json:"remote_ts"`
}

type failureView struct {
	At        string   `json:"at"`
	Stage     string   `json:"stage"`
	Conn      string   `json:"connection"`
	Child     string   `json:"child,omitempty"`
	Local     string   `json:"local"`
	Remote    string   `json:"remote"`
	LocalID   string   `json:"local_id,omitempty"`
	RemoteID  string   `json:"remote_id,omitempty"`
	Initiator bool     `json:"initiator"`
	Times     string   `json:"times,omitempty"`
	Sentence  string   `json:"sentence"`
	Evidence  []string `json:"evidence"`
	Advice    string   `json:"advice"`
}

func number(m wire.Message, key string) uint64 {
	v, _ := strconv.ParseUint(text(m, key), 10, 64)
	return v
}

func maybe(m wire.Message, key string) *int64 {
	v, err := strconv.ParseInt(text(m, key), 10, 64)
	if err != nil {
		return nil
	}
	return &v
}

func yes(m wire.Message, key string) bool { return text(m, key) == "yes" }

func algorithms(m wire.Message) algView {
	return algView{
		Encryption:     text(m, "encr-alg"),
		EncryptionBits: text(m, "encr-keysize"),
		Integrity:      text(m, "integ-alg"),
		PRF:            text(m, "prf-alg"),
		KE:             text(m, "dh-group"),
		ESN:            text(m, "esn") == "1",
	}
}

// saViews reads a list-sa event: one section per IKE SA.
func saViews(m wire.Message) []saView {
	var out []saView
	for _, n := range m {
		name, s := n.Name, n.Sub
		v := saView{
			Name:         name,
			ID:           number(s, "uniqueid"),
			Version:      text(s, "version"),
			State:        text(s, "state"),
			Local:        endView{text(s, "local-host"), text(s, "local-port"), text(s, "local-id")},
			Remote:       endView{text(s, "remote-host"), text(s, "remote-port"), text(s, "remote-id")},
			Initiator:    yes(s, "initiator"),
			SPIInitiator: text(s, "initiator-spi"),
			SPIResponder: text(s, "responder-spi"),
			NATLocal:     yes(s, "nat-local"),
			NATRemote:    yes(s, "nat-remote"),
			NATFake:      yes(s, "nat-fake"),
			Proposal:     algorithms(s),
			Established:  maybe(s, "established"),
			RekeyIn:      maybe(s, "rekey-time"),
			ReauthIn:     maybe(s, "reauth-time"),
			LocalVIPs:    list(s, "local-vips"),
			RemoteVIPs:   list(s, "remote-vips"),
			User:         text(s, "remote-xauth-id"),
			Banner:       text(s, "banner"),
			Domain:       text(s, "domain"),
			Networks:     list(s, "split-include"),
			HomePrefixes: list(s, "home-prefixes"),
			HomeAgent:    list(s, "home-agent"),
			TasksQueued:  list(s, "tasks-queued"),
			TasksActive:  list(s, "tasks-active"),
			Children:     []childView{},
		}
		kids := section(s, "child-sas")
		for _, k := range kids {
			v.Children = append(v.Children, childOf(k.Sub))
		}
		out = append(out, v)
	}
	return out
}

func childOf(c wire.Message) childView {
	return childView{
		Name:       text(c, "name"),
		ID:         number(c, "uniqueid"),
		ReqID:      number(c, "reqid"),
		ReqIDIn:    text(c, "reqid-in"),
		State:      text(c, "state"),
		Mode:       text(c, "mode"),
		Protocol:   text(c, "protocol"),
		UDPEncap:   yes(c, "encap"),
		SPIIn:      text(c, "spi-in"),
		SPIOut:     text(c, "spi-out"),
		CPIIn:      text(c, "cpi-in"),
		CPIOut:     text(c, "cpi-out"),
		IfID:       text(c, "if-id-out"),
		MarkIn:     markText(c, "in"),
		MarkOut:    markText(c, "out"),
		Algorithms: algorithms(c),
		AH:         ahOf(c),
		In:         trafView{number(c, "bytes-in"), number(c, "packets-in"), maybe(c, "use-in"), number(c, "replayed-in"), number(c, "bad-icv-in")},
		Out:        trafView{number(c, "bytes-out"), number(c, "packets-out"), maybe(c, "use-out"), 0, 0},
		MTU:        maybe(c, "mtu"),
		RekeyIn:    maybe(c, "rekey-time"),
		ExpiresIn:  maybe(c, "life-time"),
		Installed:  maybe(c, "install-time"),
		LocalTS:    list(c, "local-ts"),
		RemoteTS:   list(c, "remote-ts"),
	}
}

func ahOf(c wire.Message) *ahView {
	if text(c, "ah-spi-in") == "" {
		return nil
	}
	return &ahView{SPIIn: text(c, "ah-spi-in"), SPIOut: text(c, "ah-spi-out"), Integrity: text(c, "ah-integ-alg"), ESN: text(c, "ah-esn") == "1",
		Replayed: number(c, "ah-replayed-in"), BadICV: number(c, "ah-bad-icv-in")}
}

// connViews reads a list-conn event.
func connViews(m wire.Message) []connView {
	var out []connView
	for _, n := range m {
		name, s := n.Name, n.Sub
		local, remote := section(s, "local-1"), section(s, "remote-1")
		v := connView{
			Name:        name,
			Version:     text(s, "version"),
			LocalAddrs:  list(s, "local_addrs"),
			RemoteAddrs: list(s, "remote_addrs"),
			LocalID:     text(local, "id"),
			RemoteID:    text(remote, "id"),
			LocalAuth:   text(local, "class"),
			RemoteAuth:  text(remote, "class"),
			Role:        text(s, "mobility_role"), HomeAddresses: list(remote, "home_addresses"),
			KMAddress: list(s, "kmaddress"), KMAddressUnused: text(s, "kmaddress-unused"),
			Children: []connChildView{},
		}
		kids := section(s, "children")
		for _, k := range kids {
			c := k.Sub
			v.Children = append(v.Children, connChildView{
				Name: k.Name, Mode: text(c, "mode"), Start: text(c, "start"),
				LocalTS: list(c, "local-ts"), RemoteTS: list(c, "remote-ts"),
				Policies: text(c, "policies"), ReqID: text(c, "reqid"), ReqIDIn: text(c, "reqid-in"),
			})
		}
		out = append(out, v)
	}
	return out
}

func policyViews(m wire.Message) []policyView {
	var out []policyView
	for _, n := range m {
		name, s := n.Name, n.Sub
		out = append(out, policyView{
			Name: name, Child: text(s, "child"), Conn: text(s, "ike"), Mode: text(s, "mode"), ReqID: text(s, "reqid"),
			IfID: text(s, "if-id"), MarkIn: markText(s, "in"), MarkOut: markText(s, "out"),
			LocalTS: list(s, "local-ts"), RemoteTS: list(s, "remote-ts"),
		})
	}
	return out
}

// markText is a mark as it is configured, "" for none.
func markText(m wire.Message, dir string) string {
	v := text(m, "mark-"+dir)
	if mask := text(m, "mark-mask-"+dir); v != "" && mask != "" {
		return "0x" + v + "/0x" + mask
	}
	if v != "" {
		return "0x" + v
	}
	return ""
}

// bound says what SAs or policies are bound to, as the end of a line.
func bound(ifID, in, out string) string {
	s := ""
	if ifID != "" {
		s += ", if_id 0x" + ifID
	}
	if in != "" {
		s += ", mark in " + in
	}
	if out != "" {
		s += ", mark out " + out
	}
	return s
}

func failureOf(m wire.Message) failureView {
	return failureView{
		At: text(m, "at"), Stage: text(m, "stage"), Conn: text(m, "conn"), Child: text(m, "child"),
		Local: text(m, "local"), Remote: text(m, "remote"),
		LocalID: text(m, "local-id"), RemoteID: text(m, "remote-id"),
		Initiator: yes(m, "initiator"), Times: text(m, "times"),
		Sentence: text(m, "sentence"), Evidence: list(m, "evidence"), Advice: text(m, "advice"),
	}
}

// markUp fills in which connections and children have SAs.
func markUp(conns []connView, sas []saView) {
	type key struct{ conn, child string }
	up := map[key]bool{}
	for _, sa := range sas {
		if sa.State != "ESTABLISHED" && sa.State != "REKEYING" {
			continue
		}
		up[key{sa.Name, ""}] = true
		for _, c := range sa.Children {
			if c.State == "INSTALLED" || c.State == "REKEYING" {
				up[key{sa.Name, c.Name}] = true
			}
		}
	}
	for i := range conns {
		conns[i].Up = up[key{conns[i].Name, ""}]
		for j := range conns[i].Children {
			conns[i].Children[j].Up = up[key{conns[i].Name, conns[i].Children[j].Name}]
		}
	}
}
