package route

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// hostAddr is an address of this host that policies need.
type hostAddr struct {
	n   int
	own bool // it was put on the device
}

// AddHost puts an address on the device when no interface of this host has it;
// each call needs a RemoveHost.
func (m *Manager) AddHost(a netip.Addr) error {
	m.hostMu.Lock()
	defer m.hostMu.Unlock()
	if h := m.hosts[a]; h != nil {
		h.n++
		return nil
	}
	there, err := m.hasAddress(a)
	if err != nil {
		return fmt.Errorf("address %v: list addresses: %w", a, err)
	}
	if !there {
		if err := m.AddAddress(netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	m.hosts[a] = &hostAddr{n: 1, own: !there}
	return nil
}

func (m *Manager) hasAddress(a netip.Addr) (bool, error) {
	family := unix.AF_INET6
	if a.Is4() {
		family = unix.AF_INET
	}
	list, err := m.h.AddrList(nil, family)
	if err != nil {
		return false, err
	}
	for i := range list {
		if have, ok := netip.AddrFromSlice(list[i].IP); ok && have.Unmap() == a {
			return true, nil
		}
	}
	return false, nil
}

// RemoveHost takes back one AddHost.
func (m *Manager) RemoveHost(a netip.Addr) error {
	m.hostMu.Lock()
	defer m.hostMu.Unlock()
	h := m.hosts[a]
	if h == nil {
		return nil
	}
	if h.n--; h.n > 0 {
		return nil
	}
	delete(m.hosts, a)
	if !h.own {
		return nil
	}
	return m.RemoveAddress(netip.PrefixFrom(a, a.BitLen()))
}

const srcValidMark = "/proc/sys/net/ipv4/conf/all/src_valid_mark"

// markedWayBack makes rp_filter look for the way back of a marked packet where
// packets with that mark go. Without it strict filtering drops what comes from a
// peer whose own address is routed into the device.
func (m *Manager) markedWayBack() {
	if m.opt.Mark == 0 {
		return
	}
	f, err := os.OpenFile(srcValidMark, os.O_RDWR, 0)
	if err == nil {
		old := make([]byte, 1)
		if _, err = f.ReadAt(old, 0); err == nil && old[0] == '0' {
			if _, err = f.WriteAt([]byte("1"), 0); err == nil {
				m.validMark = f // of the namespace in which it was opened
				return
			}
		}
		f.Close()
	}
	if err != nil {
		m.opt.Warn(fmt.Sprintf("cannot set %s: %v: with strict rp_filter nothing arrives from a peer whose own address is behind the tunnel", srcValidMark, err))
	}
}

func (m *Manager) unmarkedWayBack() error {
	if m.validMark == nil {
		return nil
	}
	_, err := m.validMark.WriteAt([]byte("0"), 0)
	m.validMark.Close()
	m.validMark = nil
	if err != nil {
		return fmt.Errorf("restore %s: %w", srcValidMark, err)
	}
	return nil
}
