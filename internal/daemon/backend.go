package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"iked/conf"
	"iked/datapath"
	"iked/internal/engine"
	"iked/internal/trace"
	"iked/internal/transport"
	"iked/internal/transport/batch"
	"iked/xfrm"
	"iked/xfrm/iface"
)

// queues is the number of datapath queues.
func (d *process) queues() int {
	if d.cfg.Datapath.Queues > 0 {
		return d.cfg.Datapath.Queues
	}
	return runtime.GOMAXPROCS(0)
}

// wantBackend is what the command line or the configuration asks for.
func wantBackend(o *Options, c *conf.Config) conf.Backend {
	return conf.Backend(pick(o.Backend, string(c.Backend), string(conf.BackendAuto)))
}

// chooseBackend decides what carries the traffic. Sockets depend on it, so it comes
// before them.
func (d *process) chooseBackend() error {
	var err error
	if d.links, err = iface.New(); err != nil {
		return err
	}
	d.choice, err = choose(wantBackend(&d.opt, d.cfg), d.cfg.Connections, prober{kernel: askKernel, interfaces: d.links.Can})
	if err != nil {
		return err
	}
	d.log.info(trace.DMN, "backend: %s, %s", d.choice.name, d.choice.why)
	return nil
}

// openBackend opens what was chosen.
func (d *process) openBackend() error {
	if d.choice.name == conf.BackendKernel {
		k, err := xfrm.New(d.xfrmOptions())
		if err != nil {
			return fmt.Errorf("kernel backend: %w", err)
		}
		d.back = k
		d.cleanUserspace()
		return nil
	}
	if err := d.lockTable(); err != nil {
		return err
	}
	d.cleanKernel() // before the datapath, which may have to give its device the same name
	dp, err := datapath.New(d.datapathOptions())
	switch {
	case err == nil:
		d.back = dp
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("userspace backend: %w; load the tun module (modprobe tun), or give the container the device /dev/net/tun", err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("userspace backend: %w: another program has the device, perhaps a second iked; stop it, or give this one its own "+
			"device, table, rule_priority and mark (section datapath)", err)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Errorf("userspace backend: %w; it needs root, or CAP_NET_ADMIN and CAP_NET_RAW and the right to open /dev/net/tun", err)
	}
	return fmt.Errorf("userspace backend: %w", err)
}

// interfaces are the devices of route-based tunnels, nil where nothing can be
// bound to them.
func (d *process) interfaces() engine.Interfaces {
	if d.choice.name == conf.BackendKernel {
		return d.links
	}
	return nil
}

// checkBackend says what would carry the traffic, for --check. That it cannot be
// found out, without the privilege, is no fault; that nothing can carry it is one.
func checkBackend(o *Options, c *conf.Config) error {
	links, err := iface.New()
	if err != nil {
		return err
	}
	defer links.End()
	ch, err := choose(wantBackend(o, c), c.Connections, prober{kernel: askKernel, interfaces: links.Can})
	if err != nil && unix.Geteuid() != 0 {
		fmt.Fprintf(o.Stderr, "backend: not known without privilege: %v\n", err)
		return nil
	}
	if err != nil {
		fmt.Fprintln(o.Stderr, err)
		return ErrConfig
	}
	fmt.Fprintf(o.Stderr, "backend: %s, %s\n", ch.name, ch.why)
	return nil
}

func (d *process) xfrmOptions() xfrm.Options {
	o := xfrm.Options{Log: d.log.record, Device: d.cfg.Datapath.Device, Mark: d.mark()}
	if d.state != nil && d.state.dir != "" {
		o.State = filepath.Join(d.state.dir, "xfrm")
	}
	return o
}
func (d *process) datapathOptions() datapath.Options {
	p := &d.cfg.Datapath
	hold := p.AcquireQueue
	if hold == 0 {
		hold = -1 // 0 is the default there
	}
	return datapath.Options{
		Device: p.Device, Queues: d.queues(), MTU: p.MTU, Table: p.Table, Priority: p.RulePrio, Mark: d.mark(),
		HopLimit: p.HopLimit, FragMemory: int(p.FragMemory), HoldFrames: hold, UDP: udpPort{d.trans}, Ports: []uint16{d.cfg.Port, d.cfg.PortNATT, d.cfg.PortKINK}, Log: d.log.record,
	}
}

// udpPort is the transport as the datapath sees it.
type udpPort struct{ t *transport.Transport }

func (u udpPort) ESPQueues() int { return u.t.ESPQueues() }

func (u udpPort) SetESPHandler(h func(queue int, packets []batch.Packet)) { u.t.SetESPHandler(h) }

func (u udpPort) SendESP(queue int, packets []batch.Packet) batch.Result {
	return u.t.SendESP(queue, packets)
}
