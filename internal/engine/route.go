package engine

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"iked/conf"
	"iked/internal/trace"
	"iked/sad"
	"iked/spd"
)

// Interfaces makes the devices of route-based tunnels.
type Interfaces interface {
	// Open makes a device, up and without addresses, and tells what policies are
	// bound to it by: the number of an XFRM interface, or the mark of a VTI. local
	// and remote are the outer addresses, invalid where they are not known.
	Open(name string, ifID uint32, local, remote netip.Addr) (bound uint32, mark spd.Mark, err error)
	// Close removes it.
	Close(name string) error
	// Can is why no device can be made at all, nil when one can.
	Can() error
}

// Offloads is implemented by Routes that can name the device of an own address.
type Offloads interface {
	DeviceOf(local netip.Addr) (string, error)
}

// binding is what the policies of a child are bound to, beside its selectors. It
// is comparable.
type binding struct {
	ifID         uint32
	mark, markIn spd.Mark
}

// devices are the interfaces that children ask for, counted by their users. They
// are opened and closed by the supervisor; shards ask for the binding.
type devices struct {
	mu   sync.Mutex
	via  Interfaces
	open map[string]*device
}

type device struct {
	users int
	ifID  uint32
	bind  binding
	err   error // why it could not be made
}

// use counts a child in, and makes its device with the first.
func (d *devices) use(conn *conf.Connection, c *conf.Child) error {
	if c.Interface == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = make(map[string]*device)
	}
	dev := d.open[c.Interface]
	if dev != nil && dev.ifID != c.IfIDOut && dev.users > 0 {
		return fmt.Errorf("interface %s of child %s/%s: another child has it with if_id %d", c.Interface, conn.Name, c.Name, dev.ifID)
	}
	if dev == nil || dev.ifID != c.IfIDOut || dev.err != nil {
		if dev != nil && dev.err == nil {
			if err := d.via.Close(c.Interface); err != nil {
				return fmt.Errorf("interface %s: %w", c.Interface, err)
			}
		}
		users := 0
		if dev != nil {
			users = dev.users
		}
		dev = &device{ifID: c.IfIDOut, users: users}
		d.open[c.Interface] = dev
		d.make(dev, conn, c)
	}
	dev.users++
	return dev.err
}

// make asks for the device. The caller holds mu.
func (d *devices) make(dev *device, conn *conf.Connection, c *conf.Child) {
	if d.via == nil {
		dev.err = fmt.Errorf("interface %s: this backend makes no interfaces", c.Interface)
		return
	}
	dev.bind.ifID, dev.bind.mark, dev.err = d.via.Open(c.Interface, c.IfIDOut, onlyAddr(conn.LocalAddrs), onlyAddr(conn.RemoteAddrs))
	dev.bind.markIn = dev.bind.mark
}

// again tries to make the device of a child that uses it, if it is not there.
func (d *devices) again(conn *conf.Connection, c *conf.Child) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev := d.open[c.Interface]
	if dev == nil {
		return fmt.Errorf("interface %s is gone", c.Interface)
	}
	if dev.err != nil {
		d.make(dev, conn, c)
	}
	return dev.err
}

// onlyAddr is the address of a list that has only one, and no subnet or name.
func onlyAddr(list []conf.Host) netip.Addr {
	if len(list) == 1 {
		if a, one := list[0].Addr(); one {
			return a
		}
	}
	return netip.Addr{}
}

// leave counts a child out. The device stays until sweep: a child that is loaded
// again with the same device must not lose its routes.
func (d *devices) leave(c *conf.Child) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if dev := d.open[c.Interface]; dev != nil && c.Interface != "" {
		dev.users--
	}
}

// sweep removes the devices that nobody uses any more; all of them at the end.
func (d *devices) sweep(all bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var first error
	for name, dev := range d.open {
		if dev.users > 0 && !all {
			continue
		}
		delete(d.open, name)
		if dev.err != nil {
			continue
		}
		if err := d.via.Close(name); err != nil && first == nil {
			first = fmt.Errorf("interface %s: %w", name, err)
		}
	}
	return first
}

// binding is what a child is bound to. The error says why its device is not there.
func (d *devices) binding(c *conf.Child) (binding, error) {
	if c == nil {
		return binding{}, nil
	}
	b := binding{ifID: c.IfIDOut, mark: c.MarkOut, markIn: c.MarkIn}
	if c.Interface == "" {
		return b, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dev := d.open[c.Interface]
	switch {
	case dev == nil:
		return b, fmt.Errorf("interface %s is gone", c.Interface)
	case dev.err != nil:
		return b, dev.err
	}
	return dev.bind, nil
}

// useDevice makes the device of a child. That it cannot be made is told once, leaves
// the child without SAs, and is tried again.
func (p *supervisor) useDevice(c *connState, k *kidState) {
	if err := p.e.devices.use(c.prog.conf, k.conf); err != nil {
		p.e.log(trace.Record{Level: trace.Control, Group: trace.KNL, Conn: c.name, Child: k.conf.Name, Warn: true, Msg: err.Error()})
		p.deviceLater(c, k)
	}
}

func (p *supervisor) deviceLater(c *connState, k *kidState) {
	time.AfterFunc(vary(trapRetry), func() {
		p.post(func() {
			if p.stopped || p.conns[c.name] != c || c.kids[k.conf.Name] != k {
				return
			}
			if p.e.devices.again(c.prog.conf, k.conf) != nil {
				p.deviceLater(c, k)
				return
			}
			p.e.log(trace.Record{Level: trace.Control, Group: trace.KNL, Conn: c.name, Child: k.conf.Name, Msg: "interface " + k.conf.Interface + " is there now"})
			p.stand(c, k)
		})
	})
}

// bindSA ties an SA to the device or the marks of its child, and to the network
// device that is to do its work.
func (e *Engine) bindSA(sa *sad.SA, c *conf.Child) error {
	b, err := e.devices.binding(c)
	if err != nil || c == nil {
		return err
	}
	sa.IfID = b.ifID
	local := sa.Src
	if sa.Dir == sad.In {
		local = sa.Dst
		sa.SetMark = c.SetMarkIn
		if c.MarkInSA {
			sa.Mark = b.markIn
		}
	} else {
		sa.Mark, sa.SetMark = b.mark, c.SetMarkOut
	}
	if c.Offload == conf.OffloadNo {
		return nil
	}
	must := c.Offload != conf.OffloadAuto
	o, ok := e.opt.Routes.(Offloads)
	if !ok {
		if must {
			return fmt.Errorf("hw_offload: the device of %v is not known", local)
		}
		return nil
	}
	name, err := o.DeviceOf(local)
	if err != nil && must {
		return fmt.Errorf("hw_offload: %w", err)
	}
	if err == nil {
		sa.Offload = sad.Offload{Device: name, Packet: c.Offload == conf.OffloadPacket, Must: must}
	}
	return nil
}
