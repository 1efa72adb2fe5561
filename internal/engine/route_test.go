package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iked/conf"
	"iked/crypto/suite"
	"iked/sad"
	"iked/spd"
)

// linkTable is Interfaces in memory.
type linkTable struct {
	mu    sync.Mutex
	vti   bool
	can   error
	fail  error
	links map[string]uint32
	log   []string
}

func (l *linkTable) Open(name string, ifID uint32, local, remote netip.Addr) (uint32, spd.Mark, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, spd.Mark{}, l.fail
	}
	if l.links == nil {
		l.links = map[string]uint32{}
	}
	if _, ok := l.links[name]; ok {
		return 0, spd.Mark{}, errors.New("it exists")
	}
	l.links[name] = ifID
	l.log = append(l.log, fmt.Sprintf("open %s %d %v %v", name, ifID, local, remote))
	if l.vti {
		return 0, spd.Mark{Value: ifID, Mask: ^uint32(0)}, nil
	}
	return ifID, spd.Mark{}, nil
}

func (l *linkTable) Close(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.links, name)
	l.log = append(l.log, "close "+name)
	return nil
}

func (l *linkTable) Can() error { return l.can }

// offloads is Routes that knows the device of an address.
type offloads struct{ *gateway }

func (offloads) DeviceOf(netip.Addr) (string, error) { return "eth7", nil }

// kernel makes a gateway one with a kernel backend and devices.
func kernel(l *linkTable) func(*gateway, *Options) {
	return func(g *gateway, o *Options) {
		info := g.back.Describe()
		info.Name = "kernel"
		g.back.SetInfo(info)
		o.Interfaces = l
		o.Routes = offloads{g}
	}
}

// A child with interface has its device while it is loaded; its policies and SAs
// are bound to the number of an XFRM interface, or to the mark of a VTI. A reload
// that changes the child but not the device leaves the device alone, and what is
// removed from the configuration takes its device with it.
func TestInterfaceOfChild(t *testing.T) {
	for _, vti := range []bool{false, true} {
		t.Run(fmt.Sprintf("vti=%v", vti), func(t *testing.T) {
			simulate(t, func(w *world) {
				l := &linkTable{vti: vti}
				w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
				w.setup = kernel(l)
				moon := w.gateway("moon", moonAddr, moonConf("    local_addrs: ["+moonAddr+"]", ", start: always, interface: office0, if_id: 7"))
				w.after(2 * time.Second)
				moon.want(1, 1, "with a device")
				if want := []string{"open office0 7 " + moonAddr + " " + sunAddr}; !slices.Equal(l.log, want) {
					t.Fatalf("%q, expected %q", l.log, want)
				}
				mark, id := spd.Mark{}, uint32(7)
				if vti {
					mark, id = spd.Mark{Value: 7, Mask: ^uint32(0)}, 0
				}
				for _, p := range moon.back.Policies() {
					if p.IfID != id || p.Mark != mark || p.MarkIn != mark {
						t.Errorf("policy %+v is not bound to the device", p)
					}
				}
				for _, sa := range moon.back.SAs() {
					if want := mark; sa.IfID != id || sa.Dir == sad.Out && sa.Mark != want || sa.Dir == sad.In && sa.Mark != (spd.Mark{}) {
						t.Errorf("SA %+v is not bound to the device", sa)
					}
				}
				moon.conf = strings.Replace(moon.conf, "start: always", "start: on-demand", 1)
				if _, err := moon.e.Reload(context.Background(), false); err != nil {
					t.Fatal(err)
				}
				if len(l.log) != 1 {
					t.Errorf("a change of the child touched its device: %q", l.log)
				}
				moon.conf = strings.Replace(moon.conf, "interface: office0, if_id: 7", "policies: yes", 1)
				if _, err := moon.e.Reload(context.Background(), false); err != nil {
					t.Fatal(err)
				}
				if len(l.links) != 0 {
					t.Errorf("devices %v are left", l.links)
				}
			})
		})
	}
}

// A device that cannot be made leaves its child without SAs, and the reason is
// told; once it can, the child comes up by itself. The end of the engine removes all
// devices.
func TestInterfaceCannotBeMade(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		l := &linkTable{fail: errors.New("the name is taken")}
		w.setup = kernel(l)
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always, interface: office0"))
		w.after(2 * time.Second)
		if _, children := moon.up(); children != 0 || len(moon.back.SAs()) != 0 || !moon.logged("the name is taken") {
			t.Errorf("%d CHILD_SAs without their device\n%s", children, moon.dump())
		}
		l.mu.Lock()
		l.fail = nil
		l.mu.Unlock()
		w.after(10 * time.Minute)
		moon.want(1, 1, "when the name is free")
		if p := moon.back.Policies(); len(p) != 1 || p[0].IfID == 0 {
			t.Errorf("policies %+v", p)
		}
		moon.stop()
		if len(l.links) != 0 {
			t.Errorf("devices %v are left at the end", l.links)
		}
	})
}

// Marks, marks to set and the device for offload reach the SAs of the direction
// they are for.
func TestBoundSA(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		w.setup = kernel(&linkTable{})
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always, mark_in: 1, mark_out: 0x20/0xf0, mark_in_sa: yes, set_mark_in: 3, set_mark_out: '%same', hw_offload: packet"))
		w.after(2 * time.Second)
		moon.want(1, 1, "with marks")
		all := ^uint32(0)
		for _, sa := range moon.back.SAs() {
			mark, set := spd.Mark{Value: 1, Mask: all}, spd.Mark{Value: 3, Mask: all}
			if sa.Dir == sad.Out {
				mark, set = spd.Mark{Value: 0x20, Mask: 0xf0}, spd.Mark{Value: 0x20, Mask: all}
			}
			if sa.Mark != mark || sa.SetMark != set || sa.IfID != 0 {
				t.Errorf("direction %d: mark %+v, set %+v, if_id %d; expected %+v and %+v", sa.Dir, sa.Mark, sa.SetMark, sa.IfID, mark, set)
			}
			if want := (sad.Offload{Device: "eth7", Packet: true, Must: true}); sa.Offload != want {
				t.Errorf("direction %d: offload %+v, expected %+v", sa.Dir, sa.Offload, want)
			}
		}
		if p := moon.back.Policies(); len(p) != 1 || p[0].Mark != (spd.Mark{Value: 0x20, Mask: 0xf0}) || p[0].MarkIn != (spd.Mark{Value: 1, Mask: all}) {
			t.Errorf("policies %+v", p)
		}
	})
}

// What the backend of this daemon cannot do is refused when it is loaded, with a
// sentence, over the control protocol and from the file; nothing is changed.
func TestUnfitIsRefused(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: passive"))
		for extra, want := range map[string]string{
			", interface: office0": "interface needs the kernel backend",
			", if_id: 3":           "if_id needs the kernel backend",
			", mark_out: 3":        "mark_out needs the kernel backend",
			", set_mark_in: 3":     "set_mark_in needs the kernel backend",
			", hw_offload: yes":    "hw_offload needs the kernel backend",
		} {
			cfg, faults := conf.Parse("/nowhere/iked.yaml", []byte(strings.Replace(moonConf("", extra), "office", "other", 1)), time.Now())
			if faults.Failed() {
				t.Fatal(faults.Err())
			}
			err := moon.e.LoadConn(context.Background(), cfg.Connections[0])
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "other, child net") {
				t.Errorf("%s: %v, expected %q", extra, err, want)
			}
			if _, err := moon.e.Apply(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s in the file: %v, expected %q", extra, err, want)
			}
			if n := len(moon.e.Conns()); n != 0 {
				t.Errorf("%d connections are loaded", n)
			}
		}
		// What asks for nothing is no reason.
		cfg, _ := conf.Parse("/nowhere/iked.yaml", []byte(strings.Replace(moonConf("", ", hw_offload: auto, mark_in: 0"), "office", "other", 1)), time.Now())
		if err := moon.e.LoadConn(context.Background(), cfg.Connections[0]); err != nil {
			t.Error(err)
		}
	})
	simulate(t, func(w *world) {
		w.setup = kernel(&linkTable{can: errors.New("CONFIG_XFRM_INTERFACE is not set")})
		moon := w.gateway("moon", moonAddr, moonConf("", ""))
		cfg, _ := conf.Parse("/nowhere/iked.yaml", []byte(moonConf("", ", interface: office0")), time.Now())
		if _, err := moon.e.Apply(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "CONFIG_XFRM_INTERFACE is not set") {
			t.Error(err)
		}
	})
}

// Proposals are cut to what the backend carries: the peer cannot choose what would
// then not be installed. When nothing is left the connection is refused.
func TestProposalsFitTheBackend(t *testing.T) {
	simulate(t, func(w *world) {
		w.setup = func(g *gateway, o *Options) {
			info := g.back.Describe()
			info.Supports = func(_ suite.Protocol, _ spd.Mode, encr, integ suite.Transform, esn bool) (bool, string) {
				switch {
				case encr.ID == suite.EncrChaCha20Poly1305:
					return false, "no chacha"
				case esn:
					return false, "no esn"
				}
				return true, ""
			}
			g.back.SetInfo(info)
		}
		proposals := func(list string) string {
			return strings.Replace(moonConf("", ""), "[aes128gcm16-x25519]", list, 1)
		}
		moon := w.gateway("moon", moonAddr, proposals("[chacha20poly1305-aes128gcm16-x25519-esn-noesn, chacha20poly1305-x25519, aes128-sha256-x25519-esn]"))
		kept := moon.e.config.Load().conns["office"].ike.Children[0].Proposals
		if len(kept) != 1 {
			t.Fatalf("%d proposals are left: %v, expected one", len(kept), kept)
		}
		for _, x := range kept[0].Transforms {
			if x.ID == suite.EncrChaCha20Poly1305 && x.Type == suite.ENCR || x.Type == suite.SN && x.ID == suite.SNESN {
				t.Errorf("%v is left of what the backend lacks", x)
			}
		}
		if !slices.ContainsFunc(kept[0].Transforms, func(x suite.Transform) bool { return x.Type == suite.KE }) {
			t.Error("the key exchange is gone")
		}
		if !moon.logged("no chacha") {
			t.Error("it was not told")
		}
		cfg, _ := conf.Parse("/nowhere/iked.yaml", []byte(proposals("[chacha20poly1305-x25519]")), time.Now())
		if _, err := moon.e.Apply(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "no chacha") {
			t.Errorf("nothing of the proposals is carried, and: %v", err)
		}
	})
}
