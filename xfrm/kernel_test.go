package xfrm

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/internal/trace"
	"iked/sad"
	"iked/spd"
	"iked/xfrm/wire"
)

// kernel answers requests in place of the kernel of the machine: with SAs and policies
// that it has, and for each type of request with an error number or none.
type kernel struct {
	t       *testing.T
	sas     map[wire.SAID]*wire.SA
	spd     map[policyKey]*wire.Policy
	errnos  map[wire.Type]unix.Errno
	heard   []wire.Raw
	deleted func(*wire.SA) // tells of the last state
	dumping func()         // is called before a table is read
	waiting [][]byte
}

var errSilent = errors.New("the kernel has nothing to say")

func (k *kernel) close() {}

func (k *kernel) send(b []byte) error {
	for raw, err := range wire.Messages(b) {
		if err != nil {
			k.t.Errorf("a request that cannot be read: %v", err)
			return err
		}
		raw.Body = append([]byte(nil), raw.Body...)
		k.heard = append(k.heard, raw)
		k.answer(raw)
	}
	return nil
}

func (k *kernel) answer(raw wire.Raw) {
	errno := k.errnos[raw.Type]
	if raw.Flags&wire.FlagDump == wire.FlagDump {
		k.dump(raw)
	} else if msg, err := wire.Parse(raw.Type, raw.Body); err != nil {
		k.t.Errorf("request %v: %v", raw.Type, err)
	} else if errno == 0 {
		errno = k.do(raw, msg)
	}
	ack := binary.NativeEndian.AppendUint32(nil, uint32(36))
	ack = binary.NativeEndian.AppendUint16(ack, uint16(wire.ErrorType))
	ack = binary.NativeEndian.AppendUint16(ack, 0x100) // the request is not echoed
	ack = binary.NativeEndian.AppendUint32(ack, raw.Seq)
	ack = binary.NativeEndian.AppendUint32(ack, raw.Port)
	ack = binary.NativeEndian.AppendUint32(ack, uint32(-int32(errno)))
	k.waiting = append(k.waiting, append(ack, make([]byte, 16)...))
}

// do is what it does with SAs and policies.
func (k *kernel) do(raw wire.Raw, msg wire.Message) unix.Errno {
	switch m := msg.(type) {
	case *wire.SA:
		if k.sas[m.ByID()] != nil {
			return unix.EEXIST
		}
		k.sas[m.ByID()] = m
	case *wire.Policy:
		k.spd[keyOf(&m.PolicyInfo, &m.Attrs)] = m
	case *wire.PolicyByID:
		key := policyKey{sel: m.Sel, dir: m.Dir}
		switch p := k.spd[key]; {
		case p == nil:
			return unix.ENOENT
		case raw.Type == wire.DelPolicy:
			delete(k.spd, key)
		default:
			k.waiting = append(k.waiting, wire.AppendMessage(nil, wire.Header{Type: wire.NewPolicy, Seq: raw.Seq, Port: raw.Port}, p))
		}
	case *wire.SAByID:
		sa := k.sas[m.SAID]
		switch {
		case sa == nil:
			return unix.ESRCH
		case raw.Type == wire.DelSA:
			delete(k.sas, m.SAID)
			k.deleted(sa)
		default:
			k.waiting = append(k.waiting, wire.AppendMessage(nil, wire.Header{Type: wire.NewSA, Seq: raw.Seq, Port: raw.Port}, sa))
		}
	case *wire.StateMigrate:
		sa := k.sas[m.ID]
		to := m.ID
		to.Dst, to.Family = m.NewDst, m.NewFamily
		switch {
		case sa == nil:
			return unix.ESRCH
		case to != m.ID && k.sas[to] != nil:
			return unix.EEXIST
		}
		delete(k.sas, m.ID)
		sa.ID.Dst, sa.Src, sa.Family, sa.ReqID, sa.Sel = m.NewDst, m.NewSrc, m.NewFamily, m.NewReqID, m.NewSel
		if e := m.Encap; e != nil {
			if sa.Encap = e; e.Type == 0 {
				sa.Encap = nil
			}
		}
		k.sas[to] = sa
	}
	return 0
}

// dump tells one of its tables.
func (k *kernel) dump(raw wire.Raw) {
	if k.dumping != nil {
		k.dumping()
	}
	tell := func(typ wire.Type, m wire.Message) {
		k.waiting = append(k.waiting, wire.AppendMessage(nil, wire.Header{Type: typ, Seq: raw.Seq, Port: raw.Port}, m))
	}
	switch raw.Type {
	case wire.GetSA:
		for _, sa := range k.sas {
			tell(wire.NewSA, sa)
		}
	case wire.GetPolicy:
		for _, p := range k.spd {
			tell(wire.NewPolicy, p)
		}
	}
}

func (k *kernel) receive(b []byte) (int, error) {
	if len(k.waiting) == 0 {
		return 0, errSilent
	}
	n := copy(b, k.waiting[0])
	k.waiting = k.waiting[1:]
	return n, nil
}

// types are those of the requests since the last call.
func (k *kernel) types() (list []wire.Type) {
	for _, r := range k.heard {
		list = append(list, r.Type)
	}
	k.heard = nil
	return list
}

// on is a backend that stands on it, with a journal.
func on(t *testing.T, k *kernel, state string) *Backend {
	t.Helper()
	k.t, k.sas, k.spd = t, map[wire.SAID]*wire.SA{}, map[policyKey]*wire.Policy{}
	b := newBackend(Options{State: state, Log: func(r trace.Record) { t.Log(r.Msg) }})
	b.req = &socket{ends: k, port: 77, in: make([]byte, maxDatagram)}
	b.tables = b.req
	b.events.Init()
	b.asking.init()
	b.addrs.policies = map[uint64]*policyRecord{} // of no virtual address
	var err error
	if b.journal, err = openJournal(state); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.journal.close)
	b.report = Report{StateMigrate: true}
	b.heard = &listener{waiting: map[wire.SAID]chan *wire.SA{}}
	k.deleted = func(sa *wire.SA) {
		a := sa.Attrs
		a.SA = &sa.SAInfo
		b.heard.answer(&wire.SAByID{SAID: sa.ByID(), Attrs: a})
	}
	return b
}

// carry puts an SA into a backend and its kernel.
func (k *kernel) carry(b *Backend, dir sad.Direction, mode spd.Mode, encap *sad.Encap) *saRecord {
	r := &saRecord{id: sad.ID{Dir: dir, Proto: suite.ProtoESP, SPI: 0x11223344, Dst: netip.MustParseAddr("192.0.2.2")}, src: netip.MustParseAddr("192.0.2.1"),
		name: "net", owner: 5, reqID: 7, mode: mode, encap: encap != nil}
	m := &wire.SA{}
	m.ID, m.Src, m.Family = wire.ID{Dst: wire.AddressOf(r.id.Dst), SPI: r.id.SPI, Proto: ipESP}, wire.AddressOf(r.src), wire.Inet
	m.ReqID, m.Mode = r.reqID, kernelMode(mode)
	src, dst := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")
	if mode == spd.Transport {
		src, dst = netip.PrefixFrom(r.src, 32), netip.PrefixFrom(r.id.Dst, 32)
	}
	r.sel = wireSelector(spd.KernelSelector{Src: src, Dst: dst})
	m.Sel = r.sel
	if encap != nil {
		m.Encap = &wire.Encap{Type: wire.EncapUDP, SrcPort: encap.SrcPort, DstPort: encap.DstPort}
	}
	k.sas[r.said()] = m
	b.put(r)
	b.journal.addSA(r)
	return r
}
