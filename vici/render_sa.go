package vici

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/engine"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/spd"
	"iked/vici/wire"
)

// ikeSection is an IKE SA as every client expects it: the keys in this order,
// optional ones absent. The children are added by the caller, last.
func ikeSection(sa *engine.SAInfo, now time.Time) wire.Message {
	var m wire.Message
	m.SetUint("uniqueid", uint64(sa.UniqueID))
	m.Set("version", versionName(sa.Version))
	m.Set("state", ikeState(sa.State))
	endpoint(&m, "local", sa.Local, sa.LocalID)
	endpoint(&m, "remote", sa.Remote, sa.RemoteID)
	m.SetIf("remote-xauth-id", printable(sa.User))
	m.SetYes("initiator", sa.Initiator)
	m.Set("initiator-spi", fmt.Sprintf("%016x", uint64(sa.SPIi)))
	m.Set("responder-spi", fmt.Sprintf("%016x", uint64(sa.SPIr)))
	m.SetYes("nat-local", sa.NATLocal)
	m.SetYes("nat-remote", sa.NATRemote)
	m.SetYes("nat-fake", sa.NATFake)
	m.SetYes("nat-any", sa.NATLocal || sa.NATRemote || sa.NATFake)
	transforms(&m, sa.Encr, sa.Integ, sa.PRF, sa.KE)
	if sa.State == ikev2.Established {
		m.SetInt("established", seconds(now.Sub(sa.Established)))
		until(&m, "rekey-time", sa.RekeyAt, now)
		until(&m, "reauth-time", sa.ReauthAt, now)
	}
	addresses(&m, "local-vips", sa.LocalVIPs)
	addresses(&m, "remote-vips", sa.RemoteVIPs)
	m.SetIf("banner", printable(sa.Banner))
	m.SetIf("domain", printable(sa.Domain))
	prefixes(&m, "split-include", sa.Networks)
	var home []netip.Addr
	prefixes(&m, "home-prefixes", sa.Home.Prefixes)
	for _, a := range []netip.Addr{sa.Home.Agent, sa.Home.Agent4} {
		if a.IsValid() {
			home = append(home, a)
		}
	}
	addresses(&m, "home-agent", home)
	tasks(&m, "tasks-queued", sa.Queued)
	tasks(&m, "tasks-active", sa.Active)
	tasks(&m, "tasks-passive", sa.Passive)
	return m
}

// versionName is the version of IKE as a number, or kink.
func versionName(v uint8) string {
	if v == keyex.VersionKINK {
		return "kink"
	}
	return strconv.Itoa(int(v))
}

// withChildren appends child-sas, which clients need as the last key.
func withChildren(m wire.Message, children []engine.ChildInfo, now time.Time) wire.Message {
	var kids wire.Message
	for i := range children {
		c := &children[i]
		kids.SetSection(c.Name+"-"+strconv.FormatUint(uint64(c.UniqueID), 10), childSection(c, now))
	}
	m.SetSection("child-sas", kids)
	return m
}

func childSection(c *engine.ChildInfo, now time.Time) wire.Message {
	var m wire.Message
	m.Set("name", c.Name)
	m.SetUint("uniqueid", uint64(c.UniqueID))
	m.SetUint("reqid", uint64(c.ReqID))
	if c.ReqIDIn != 0 && c.ReqIDIn != c.ReqID {
		m.SetUint("reqid-in", uint64(c.ReqIDIn))
	}
	m.Set("state", childState(c.State))
	m.Set("mode", modeName(c.Mode))
	if hasSAs(c.State) {
		m.Set("protocol", c.Proto.String())
		m.SetYes("encap", c.Encap)
		m.Set("spi-in", fmt.Sprintf("%08x", c.SPIIn))
		m.Set("spi-out", fmt.Sprintf("%08x", c.SPIOut))
		if c.CPIIn != 0 {
			m.Set("cpi-in", fmt.Sprintf("%04x", c.CPIIn))
			m.Set("cpi-out", fmt.Sprintf("%04x", c.CPIOut))
		}
		mark(&m, "in", c.MarkIn)
		mark(&m, "out", c.MarkOut)
		if c.IfID != 0 {
			m.Set("if-id-in", fmt.Sprintf("%08x", c.IfID))
			m.Set("if-id-out", fmt.Sprintf("%08x", c.IfID))
		}
		transforms(&m, c.Encr, c.Integ, suite.Transform{}, c.KE)
		if c.ESN {
			m.Set("esn", "1")
		}
		if a := c.AH; a != nil {
			m.Set("ah-spi-in", fmt.Sprintf("%08x", a.SPIIn))
			m.Set("ah-spi-out", fmt.Sprintf("%08x", a.SPIOut))
			m.Set("ah-integ-alg", a.Integ.Name())
			if a.Integ.KeyBits != 0 {
				m.SetUint("ah-integ-keysize", uint64(a.Integ.KeyBits))
			}
			if a.ESN {
				m.Set("ah-esn", "1")
			}
			if a.Replayed > 0 {
				m.SetUint("ah-replayed-in", a.Replayed)
			}
			if a.BadICV > 0 {
				m.SetUint("ah-bad-icv-in", a.BadICV)
			}
		}
		traffic(&m, "in", c.In, now)
		traffic(&m, "out", c.Out, now)
		until(&m, "rekey-time", c.RekeyAt, now)
		until(&m, "life-time", c.ExpireAt, now)
		m.SetInt("install-time", seconds(now.Sub(c.Installed)))
		if c.MTU > 0 {
			m.SetInt("mtu", int64(c.MTU))
		}
		if c.Replayed > 0 {
			m.SetUint("replayed-in", c.Replayed)
		}
		if c.BadICV > 0 {
			m.SetUint("bad-icv-in", c.BadICV)
		}
	}
	selectors(&m, "local-ts", c.Local)
	selectors(&m, "remote-ts", c.Remote)
	return m
}

func hasSAs(s ikev2.ChildState) bool {
	switch s {
	case ikev2.ChildInstalled, ikev2.ChildRekeying, ikev2.ChildRekeyed, ikev2.ChildDeleting, ikev2.ChildDeleted, ikev2.ChildUpdating:
		return true
	}
	return false
}

func ikeState(s ikev2.SAState) string {
	switch s {
	case ikev2.Created:
		return "CREATED"
	case ikev2.Connecting:
		return "CONNECTING"
	case ikev2.Established:
		return "ESTABLISHED"
	case ikev2.Rekeying:
		return "REKEYING"
	case ikev2.Rekeyed:
		return "REKEYED"
	case ikev2.Deleting:
		return "DELETING"
	}
	return "DESTROYING"
}

func childState(s ikev2.ChildState) string {
	switch s {
	case ikev2.ChildCreated:
		return "CREATED"
	case ikev2.ChildInstalling:
		return "INSTALLING"
	case ikev2.ChildInstalled:
		return "INSTALLED"
	case ikev2.ChildUpdating:
		return "UPDATING"
	case ikev2.ChildRekeying:
		return "REKEYING"
	case ikev2.ChildRekeyed:
		return "REKEYED"
	case ikev2.ChildDeleting:
		return "DELETING"
	}
	return "DELETED"
}

func modeName(m spd.Mode) string {
	switch m {
	case spd.Transport:
		return "TRANSPORT"
	case spd.BEET:
		return "BEET"
	}
	return "TUNNEL"
}

func endpoint(m *wire.Message, side string, a netip.AddrPort, id ident.ID) {
	host := "%any"
	if a.Addr().IsValid() && !a.Addr().IsUnspecified() {
		host = a.Addr().Unmap().String()
	}
	m.Set(side+"-host", host)
	m.SetUint(side+"-port", uint64(a.Port()))
	m.Set(side+"-id", printable(id.String()))
}

// transforms writes the algorithms; nothing before a proposal was chosen.
func transforms(m *wire.Message, encr, integ, prf, ke suite.Transform) {
	if encr.Type != 0 {
		m.Set("encr-alg", encr.Name())
		bits(m, "encr-keysize", encr)
	}
	if integ.Type != 0 && integ.ID != suite.IntegNone {
		m.Set("integ-alg", integ.Name())
		bits(m, "integ-keysize", integ)
	}
	if prf.Type != 0 {
		m.Set("prf-alg", prf.Name())
	}
	if ke.Type != 0 && ke.ID != suite.KENone {
		m.Set("dh-group", ke.Name())
	}
}

// mark writes a mark that is set; the mask only when some bits do not count.
func mark(m *wire.Message, dir string, k spd.Mark) {
	if k == (spd.Mark{}) {
		return
	}
	m.Set("mark-"+dir, fmt.Sprintf("%08x", k.Value))
	if k.Mask != ^uint32(0) {
		m.Set("mark-mask-"+dir, fmt.Sprintf("%08x", k.Mask))
	}
}

func bits(m *wire.Message, key string, t suite.Transform) {
	if t.KeyBits != 0 {
		m.SetUint(key, uint64(t.KeyBits))
	}
}

func traffic(m *wire.Message, dir string, t engine.Traffic, now time.Time) {
	m.SetUint("bytes-"+dir, t.Bytes)
	m.SetUint("packets-"+dir, t.Packets)
	if !t.LastUsed.IsZero() {
		m.SetInt("use-"+dir, seconds(now.Sub(t.LastUsed)))
	}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func until(m *wire.Message, key string, at, now time.Time) {
	if !at.IsZero() {
		m.SetInt(key, seconds(at.Sub(now)))
	}
}

func addresses(m *wire.Message, key string, list []netip.Addr) {
	if len(list) == 0 {
		return
	}
	s := make([]string, len(list))
	for i, a := range list {
		s[i] = a.String()
	}
	m.SetList(key, s...)
}

func prefixes(m *wire.Message, key string, list []netip.Prefix) {
	if len(list) == 0 {
		return
	}
	s := make([]string, len(list))
	for i, p := range list {
		s[i] = p.String()
	}
	m.SetList(key, s...)
}

func tasks(m *wire.Message, key string, list []string) {
	if len(list) > 0 {
		m.SetList(key, list...)
	}
}

func selectors(m *wire.Message, key string, list []spd.TS) {
	s := make([]string, len(list))
	for i, ts := range list {
		s[i] = ts.String()
	}
	m.SetList(key, s...)
}
