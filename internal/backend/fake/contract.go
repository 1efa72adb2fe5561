package fake

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/sad"
	"iked/spd"
)

// call records c with the result of f, or with an error that FailNext asked for.
func (b *Backend) call(c Call, f func(c *Call) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch q := b.fail[c.Op]; {
	case b.closed:
		c.Err = backend.ErrClosed
	case len(q) > 0:
		c.Err, b.fail[c.Op] = q[0], q[1:]
	default:
		c.Err = f(&c)
	}
	b.calls = append(b.calls, c)
	return c.Err
}

// AllocSPI implements backend.SADB.
func (b *Backend) AllocSPI(proto suite.Protocol, local netip.Addr) (spi uint32, err error) {
	err = b.call(Call{Op: OpAllocSPI, ID: sad.ID{Dir: sad.In, Proto: proto, Dst: local}}, func(c *Call) error {
		spi = b.nextSPI
		if proto == suite.ProtoIPComp {
			// RFC 3173, Section 3.3.
			spi = uint32(sad.MinCPI) + b.nextSPI%uint32(sad.MaxCPI-sad.MinCPI)
		}
		b.nextSPI++
		b.reserved[spiKey{proto, spi}] = true
		c.ID.SPI = spi
		return nil
	})
	return spi, err
}

// FreeSPI implements backend.SADB.
func (b *Backend) FreeSPI(proto suite.Protocol, local netip.Addr, spi uint32) {
	b.call(Call{Op: OpFreeSPI, ID: sad.ID{Dir: sad.In, Proto: proto, SPI: spi, Dst: local}}, func(*Call) error {
		delete(b.reserved, spiKey{proto, spi})
		return nil
	})
}

// AddSA implements backend.SADB.
func (b *Backend) AddSA(sa *sad.SA) error {
	keep := copySA(sa)
	return b.call(Call{Op: OpAddSA, ID: sa.ID, SA: keep}, func(*Call) error {
		if err := backend.CheckSA(sa); err != nil {
			return err
		}
		if sa.Dir == sad.In && sa.CPI != 0 && b.receives(sa.CPI) {
			return fmt.Errorf("add SA: CPI %d: %w", sa.CPI, backend.ErrExists)
		}
		if b.sas[sa.ID] != nil || sa.Dir == sad.In && b.inbound(sa.Proto, sa.SPI) {
			return fmt.Errorf("add SA: SPI 0x%08x: %w", sa.SPI, backend.ErrExists)
		}
		b.sas[sa.ID] = keep
		b.order = append(b.order, sa.ID)
		if sa.Dir == sad.In {
			delete(b.reserved, spiKey{sa.Proto, sa.SPI})
			delete(b.reserved, spiKey{suite.ProtoIPComp, uint32(sa.CPI)})
		}
		return nil
	})
}

// inbound tells whether an inbound SA has this SPI, whatever its address.
func (b *Backend) inbound(proto suite.Protocol, spi uint32) bool {
	for id := range b.sas {
		if id.Dir == sad.In && id.Proto == proto && id.SPI == spi {
			return true
		}
	}
	return false
}

// receives tells whether an inbound SA has this CPI.
func (b *Backend) receives(cpi uint16) bool {
	for id, sa := range b.sas {
		if id.Dir == sad.In && sa.CPI == cpi {
			return true
		}
	}
	return false
}

// copySA copies what the caller may reuse or destroy.
func copySA(sa *sad.SA) *sad.SA {
	c := *sa
	c.Local, c.Remote = slices.Clone(sa.Local), slices.Clone(sa.Remote)
	c.EncrKey, c.IntegKey = sa.EncrKey.Clone(), sa.IntegKey.Clone()
	if sa.Encap != nil {
		e := *sa.Encap
		c.Encap = &e
	}
	return &c
}

// UpdateSA implements backend.SADB.
func (b *Backend) UpdateSA(id sad.ID, m backend.Move) (sad.ID, error) {
	to := id
	to.Dst = m.Dst
	err := b.call(Call{Op: OpUpdateSA, ID: id, Move: m}, func(*Call) error {
		sa := b.sas[id]
		if sa == nil {
			return notFound("update", id)
		}
		if to != id && b.sas[to] != nil {
			return fmt.Errorf("update SA: SPI 0x%08x to %v: %w", id.SPI, to.Dst, backend.ErrExists)
		}
		moved := *sa
		moved.ID, moved.Src, moved.Encap = to, m.Src, m.Encap
		delete(b.sas, id)
		b.sas[to] = &moved
		if u, ok := b.usage[id]; ok {
			delete(b.usage, id)
			b.usage[to] = u
		}
		b.order[slices.Index(b.order, id)] = to
		return nil
	})
	if err != nil {
		return id, err
	}
	return to, nil
}

// DeleteSA implements backend.SADB.
func (b *Backend) DeleteSA(id sad.ID) error {
	return b.call(Call{Op: OpDeleteSA, ID: id}, func(*Call) error {
		if b.sas[id] == nil {
			return notFound("delete", id)
		}
		delete(b.sas, id)
		delete(b.usage, id)
		b.order = slices.DeleteFunc(b.order, func(x sad.ID) bool { return x == id })
		return nil
	})
}

// QuerySA implements backend.SADB.
func (b *Backend) QuerySA(id sad.ID) (u sad.Usage, err error) {
	err = b.call(Call{Op: OpQuerySA, ID: id}, func(*Call) error {
		if b.sas[id] == nil {
			return notFound("query", id)
		}
		u = b.usage[id]
		return nil
	})
	return u, err
}

func notFound(op string, id sad.ID) error {
	return fmt.Errorf("%s SA: SPI 0x%08x, destination %v: %w", op, id.SPI, id.Dst, backend.ErrNotFound)
}

// ApplyPolicies implements backend.SPDB.
func (b *Backend) ApplyPolicies(remove []uint64, add []spd.Policy) error {
	return b.call(Call{Op: OpApplyPolicies, Remove: slices.Clone(remove), Add: slices.Clone(add)}, func(*Call) error {
		for i := range add {
			if err := backend.CheckPolicy(&add[i]); err != nil {
				return err
			}
		}
		b.policies = slices.DeleteFunc(b.policies, func(p spd.Policy) bool { return slices.Contains(remove, p.ID) })
		for _, p := range add {
			if i := slices.IndexFunc(b.policies, func(o spd.Policy) bool { return o.ID == p.ID }); i >= 0 {
				b.policies[i] = p
			} else {
				b.policies = append(b.policies, p)
			}
		}
		return nil
	})
}

// AddAddress implements backend.AddressInstaller.
func (b *Backend) AddAddress(p netip.Prefix) error {
	return b.call(Call{Op: OpAddAddress, Prefix: p}, func(*Call) error { b.addrs[p]++; return nil })
}

// RemoveAddress implements backend.AddressInstaller.
func (b *Backend) RemoveAddress(p netip.Prefix) error {
	return b.call(Call{Op: OpRemoveAddress, Prefix: p}, func(*Call) error {
		if b.addrs[p]--; b.addrs[p] <= 0 {
			delete(b.addrs, p)
		}
		return nil
	})
}

// Describe implements backend.Backend.
func (b *Backend) Describe() backend.Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.info
}

// Events implements backend.Backend.
func (b *Backend) Events() <-chan backend.Event { return b.events }

// Counters implements backend.Backend.
func (b *Backend) Counters() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.counters)
}

// Close implements backend.Backend.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.events)
	}
	return nil
}

// AcquireTaken implements backend.AcquireTaker.
func (b *Backend) AcquireTaken(flow spd.Flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = append(b.taken, flow)
}

// AcquireFailed implements backend.AcquireAnswerer.
func (b *Backend) AcquireFailed(policy uint64, flow spd.Flow, retry time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = append(b.failed, Failure{policy, flow, retry})
	b.calls = append(b.calls, Call{Op: OpAcquireFailed})
}
