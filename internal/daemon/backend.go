package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"syscall"

	"iked/conf"
	"iked/datapath"
	"iked/internal/trace"
	"iked/internal/transport"
	"iked/internal/transport/batch"
)

// queues is the number of datapath queues.
func (d *process) queues() int {
	if d.cfg.Datapath.Queues > 0 {
		return d.cfg.Datapath.Queues
	}
	return runtime.GOMAXPROCS(0)
}

// openBackend chooses what carries the traffic and says which and why.
func (d *process) openBackend() error {
	want := conf.Backend(pick(d.opt.Backend, string(d.cfg.Backend), string(conf.BackendAuto)))
	switch want {
	case conf.BackendKernel:
		return errors.New("backend kernel: this version carries traffic with its own userspace datapath only, the XFRM backend is not in it; use --backend userspace or auto")
	case conf.BackendAuto:
		d.log.info(trace.DMN, "backend: userspace, because the kernel backend is not in this version")
	case conf.BackendUserspace:
		d.log.info(trace.DMN, "backend: userspace, as configured")
	default:
		return fmt.Errorf("backend %q is not known, expected auto, kernel or userspace", want)
	}
	if err := d.lockTable(); err != nil {
		return err
	}
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

func (d *process) datapathOptions() datapath.Options {
	p := &d.cfg.Datapath
	hold := p.AcquireQueue
	if hold == 0 {
		hold = -1 // 0 is the default there
	}
	return datapath.Options{
		Device: p.Device, Queues: d.queues(), MTU: p.MTU, Table: p.Table, Priority: p.RulePrio, Mark: d.mark(),
		HopLimit: p.HopLimit, FragMemory: int(p.FragMemory), HoldFrames: hold, UDP: udpPort{d.trans}, Log: d.log.record,
	}
}

// udpPort is the transport as the datapath sees it.
type udpPort struct{ t *transport.Transport }

func (u udpPort) ESPQueues() int { return u.t.ESPQueues() }

func (u udpPort) SetESPHandler(h func(queue int, packets []batch.Packet)) { u.t.SetESPHandler(h) }

func (u udpPort) SendESP(queue int, packets []batch.Packet) batch.Result {
	return u.t.SendESP(queue, packets)
}
