package iface

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"iked/spd"
)

// table is links in memory, of a kernel that has the kinds named.
type table struct {
	links map[string]netlink.Link
	kinds string
	deny  error
}

func (t *table) LinkByName(name string) (netlink.Link, error) {
	if l, ok := t.links[name]; ok {
		return l, nil
	}
	return nil, netlink.LinkNotFoundError{}
}

func (t *table) LinkAdd(l netlink.Link) error {
	switch {
	case t.deny != nil:
		return t.deny
	case !strings.Contains(t.kinds, l.Type()):
		return unix.EOPNOTSUPP
	case t.links[l.Attrs().Name] != nil:
		return unix.EEXIST
	}
	t.links[l.Attrs().Name] = l
	return nil
}

func (t *table) LinkDel(l netlink.Link) error { delete(t.links, l.Attrs().Name); return nil }

func (t *table) LinkSetUp(l netlink.Link) error { l.Attrs().OperState = netlink.OperUp; return nil }

func (t *table) LinkSetAlias(l netlink.Link, s string) error { l.Attrs().Alias = s; return nil }

func newTable(kinds string) *table { return &table{links: map[string]netlink.Link{}, kinds: kinds} }

// The better kind that the kernel has is taken, and nothing remains of finding
// out; without any the reason names what is missing.
func TestProbe(t *testing.T) {
	for kinds, want := range map[string]string{
		"xfrm vti": "by XFRM interfaces", "vti": "by VTI, because the kernel has no XFRM interfaces (CONFIG_XFRM_INTERFACE is not set)",
		"": "CONFIG_XFRM_INTERFACE is not set",
	} {
		tab := newTable(kinds)
		m := &Manager{h: tab}
		if !strings.Contains(m.Describe(), want) || (m.Can() == nil) != (kinds != "") || len(tab.links) != 0 {
			t.Errorf("%q: %s, %v, links %v", kinds, m.Describe(), m.Can(), tab.links)
		}
	}
	tab := newTable("xfrm")
	tab.deny = unix.EPERM
	if m := (&Manager{h: tab}); !errors.Is(m.Can(), unix.EPERM) {
		t.Error(m.Can())
	}
	if _, _, err := (&Manager{h: newTable("")}).Open("office0", 1, netip.Addr{}, netip.Addr{}); err == nil {
		t.Error("a device was made where there are none")
	}
}

// An XFRM interface has the number that policies are bound to; it is up, marked as
// this daemon's, and gone after Close.
func TestXFRMInterface(t *testing.T) {
	tab := newTable("xfrm vti")
	m := &Manager{h: tab}
	id, mark, err := m.Open("office0", 7, netip.Addr{}, netip.Addr{})
	x, ok := tab.links["office0"].(*netlink.Xfrmi)
	if err != nil || !ok || x.Ifid != 7 || id != 7 || mark != (spd.Mark{}) || x.Alias != alias || x.OperState != netlink.OperUp {
		t.Fatalf("%+v, bound by %d and %+v: %v", x, id, mark, err)
	}
	if err := m.Close("office0"); err != nil || len(tab.links) != 0 {
		t.Errorf("%v, links %v", err, tab.links)
	}
	if err := m.Close("office0"); err != nil {
		t.Errorf("what is gone already: %v", err)
	}
}

// A device that a crashed process left is taken over when it is the same, else
// made anew; one of somebody else stays as it is, and is told of.
func TestLeftovers(t *testing.T) {
	tab := newTable("xfrm")
	m := &Manager{h: tab}
	old := &netlink.Xfrmi{LinkAttrs: netlink.LinkAttrs{Name: "office0", Alias: alias}, Ifid: 7}
	tab.links["office0"] = old
	if _, _, err := m.Open("office0", 7, netip.Addr{}, netip.Addr{}); err != nil || tab.links["office0"] != old {
		t.Errorf("the same device was made anew: %v", err)
	}
	if _, _, err := m.Open("office0", 8, netip.Addr{}, netip.Addr{}); err != nil || tab.links["office0"].(*netlink.Xfrmi).Ifid != 8 {
		t.Errorf("%v, %+v", err, tab.links["office0"])
	}
	foreign := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "dmz0"}}
	tab.links["dmz0"] = foreign
	if _, _, err := m.Open("dmz0", 9, netip.Addr{}, netip.Addr{}); err == nil || !strings.Contains(err.Error(), "not this daemon's") || tab.links["dmz0"] != foreign {
		t.Errorf("%v, %+v", err, tab.links["dmz0"])
	}
	if err := m.Close("dmz0"); err == nil || tab.links["dmz0"] != foreign {
		t.Errorf("a foreign device was removed: %v", err)
	}
}

// A VTI binds by its mark, has the ends that are known, and is of the family of
// those.
func TestVTI(t *testing.T) {
	tab := newTable("vti vti6")
	m := &Manager{h: tab}
	for name, ends := range map[string][2]string{"v4": {"192.0.2.1", "192.0.2.2"}, "local end": {"192.0.2.1", ""}, "remote end": {"", "192.0.2.2"}, "v6": {"2001:db8::1", ""}} {
		var a [2]netip.Addr
		for i, s := range ends {
			if s != "" {
				a[i] = netip.MustParseAddr(s)
			}
		}
		id, mark, err := m.Open(name, 7, a[0], a[1])
		v, ok := tab.links[name].(*netlink.Vti)
		if err != nil || !ok || id != 0 || mark != (spd.Mark{Value: 7, Mask: ^uint32(0)}) || v.IKey != 7 || v.OKey != 7 {
			t.Fatalf("%s: %+v, bound by %d and %+v: %v", name, v, id, mark, err)
		}
		if want := map[bool]string{true: "vti6", false: "vti"}[a[0].Is6()]; v.Type() != want {
			t.Errorf("%s: a %s, expected a %s", name, v.Type(), want)
		}
		if ends[1] != "" && v.Remote.String() != ends[1] {
			t.Errorf("%s: remote end %v", name, v.Remote)
		}
	}
	if _, _, err := m.Open("none", 7, netip.Addr{}, netip.Addr{}); err == nil || !strings.Contains(err.Error(), "local_addrs or remote_addrs") {
		t.Errorf("a VTI without ends: %v", err)
	}
}
