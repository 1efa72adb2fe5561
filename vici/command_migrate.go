package vici

import (
	"errors"
	"fmt"
	"net/netip"

	"iked/migrate"
	"iked/spd"
	"iked/vici/wire"
)

// migrate lets a mobility manager tell where SAs go on: for SAs in userspace, of which
// the kernel knows nothing, and for managers that do not speak to the kernel.
func (s *Server) migrate(c *call) wire.Message {
	if c.bad != nil {
		return failure(c.bad.Error())
	}
	ev, err := migration(c.req)
	if err != nil {
		return failure(err.Error())
	}
	r, err := s.engine.Migrate(s.ctx, ev)
	if err == nil && r.Children+r.IKEs+r.Static+r.Begin == 0 {
		err = errors.New("no SA is where the request says, or all of them are there already")
	}
	if err == nil && r.Children+r.IKEs+r.Static == 0 && r.Unused != "" {
		err = fmt.Errorf("no SA moves, and where IKE is to begin is remembered, but not used now: %s", r.Unused)
	}
	return counted(err, func(m *wire.Message) {
		m.SetInt("matches", int64(r.Children+r.IKEs+r.Static))
		m.SetInt("begin", int64(r.Begin))
	})
}

// migration reads the request: one direction of one policy, with one entry.
func migration(m wire.Message) (migrate.Event, error) {
	r := &reader{m: m}
	ev := migrate.Event{Source: migrate.Control, Dir: choice(r, "dir", false, []string{"out", "in", "fwd"}, []migrate.Dir{migrate.Out, migrate.In, migrate.Fwd})}
	x := migrate.Entry{
		Proto: choice(r, "proto", false, protoWords, []uint8{50, 51}), Mode: choice(r, "mode", false, modeWords, modeValue), ReqID: uint32(r.number("reqid", 32)),
		Old: migrate.Pair{Src: r.addr("old_src", true), Dst: r.addr("old_dst", true)}, New: migrate.Pair{Src: r.addr("new_src", true), Dst: r.addr("new_dst", true)},
	}
	ev.Entries = []migrate.Entry{x}
	// Neither without the other.
	ev.KM.Local = r.addr("ike_local", r.text("ike_remote") != "")
	ev.KM.Remote = r.addr("ike_remote", ev.KM.Local.IsValid())
	ev.Selector = spd.KernelSelector{Src: r.prefix("src_ts", x.New.Src), Dst: r.prefix("dst_ts", x.New.Dst)}
	if err := r.end(); err != nil {
		return ev, err
	}
	return ev, ev.Check()
}

// prefix reads the network of a selector; everything of the family of an address when
// it is not there.
func (r *reader) prefix(key string, like netip.Addr) netip.Prefix {
	s := r.text(key)
	if s == "" {
		any := netip.IPv4Unspecified()
		if like.Is6() {
			any = netip.IPv6Unspecified()
		}
		return netip.PrefixFrom(any, 0)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		r.fail(key, "%q, expected a network such as 10.1.0.0/16", s)
	}
	return p.Masked()
}
