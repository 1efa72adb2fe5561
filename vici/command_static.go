package vici

import (
	"fmt"
	"strings"

	"iked/crypto/suite"
	"iked/sad"
	"iked/spd"
	"iked/vici/wire"
)

// statics registers what is about SAs keyed by hand and policies put in by hand.
func (s *Server) statics() {
	change := func(f func(c *call) wire.Message) handler {
		return func(c *call) wire.Message {
			if c.bad != nil {
				return failure(c.bad.Error())
			}
			return f(c)
		}
	}
	s.commands["static-sa-add"] = change(s.staticSAAdd)
	s.commands["static-sa-update"] = change(func(c *call) wire.Message {
		sel, mv, err := staticMove(c.req)
		if err == nil {
			err = s.engine.UpdateStaticSA(sel, mv)
		}
		return verdict(err)
	})
	s.commands["static-sa-delete"] = change(func(c *call) wire.Message {
		r := &reader{m: c.req}
		sel := staticSelector(r)
		err := r.end()
		if err == nil {
			err = s.engine.DeleteStaticSA(sel)
		}
		return verdict(err)
	})
	s.commands["static-sa-flush"] = change(func(c *call) wire.Message {
		n, err := s.engine.FlushStaticSAs()
		return counted(err, func(m *wire.Message) { m.SetInt("matches", int64(n)) })
	})
	s.commands["static-sas"] = s.staticSAs
	s.commands["static-policy-add"] = change(func(c *call) wire.Message {
		p, err := staticPolicy(c.req)
		if err == nil {
			err = s.engine.AddStaticPolicy(p)
		}
		return verdict(err)
	})
	s.commands["static-policy-delete"] = change(func(c *call) wire.Message {
		r := &reader{m: c.req}
		name := r.text("name")
		err := r.end()
		if err == nil {
			err = s.engine.DeleteStaticPolicy(name)
		}
		return verdict(err)
	})
	s.commands["static-policy-flush"] = change(func(c *call) wire.Message {
		n, err := s.engine.FlushStaticPolicies()
		return counted(err, func(m *wire.Message) { m.SetInt("matches", int64(n)) })
	})
	s.commands["static-policies"] = s.staticPolicies
}

func (s *Server) staticSAAdd(c *call) wire.Message {
	sa, err := staticSA(c.req)
	if err != nil {
		return failure(err.Error())
	}
	id, err := s.engine.AddStaticSA(sa)
	if err != nil {
		sa.EncrKey.Destroy()
		sa.IntegKey.Destroy()
		return failure(err.Error())
	}
	return counted(nil, func(m *wire.Message) { m.Set("reqid", fmt.Sprintf("0x%x", id)) })
}

// staticSAs streams SAs with the keys that static-sa-add reads, and what they have
// carried; key material only when it is asked for.
func (s *Server) staticSAs(c *call) wire.Message {
	keys := c.req.Bool("keys", false)
	if keys {
		s.logf(false, "control: keys of static SAs are exported")
	}
	for _, x := range s.engine.StaticSAs(keys) {
		var m wire.Message
		m.Set("name", printable(x.Name))
		m.Set("dir", dirWords[x.Dir-1])
		m.Set("proto", strings.ToLower(x.Proto.String()))
		m.Set("spi", fmt.Sprintf("0x%08x", x.SPI))
		m.Set("src", x.Src.String())
		m.Set("dst", x.Dst.String())
		m.SetYes("one_sender", x.Sender.IsValid())
		m.Set("mode", modeWords[x.Mode])
		m.Set("reqid", fmt.Sprintf("0x%x", x.ReqID))
		m.SetList("local_ts", texts(x.Local)...)
		m.SetList("remote_ts", texts(x.Remote)...)
		m.Set("alg", algorithm(&x.SA))
		if x.Dir == sad.In {
			m.SetUint("replay_window", uint64(x.ReplayWindow))
		}
		if x.Encap != nil {
			m.Set("encap", fmt.Sprintf("%d:%d", x.Encap.SrcPort, x.Encap.DstPort))
		}
		limits(&m, &x.Limits, x.TFCPadding)
		var use wire.Message
		use.SetUint("bytes", x.Usage.Bytes)
		use.SetUint("packets", x.Usage.Packets)
		use.SetUint("seq", x.Usage.Seq)
		m.SetSection("usage", use)
		if keys {
			if x.EncrKey.Len() > 0 {
				m.SetBytes("encr_key", x.EncrKey.Reveal())
			}
			if x.IntegKey.Len() > 0 {
				m.SetBytes("integ_key", x.IntegKey.Reveal())
			}
		}
		c.event(evStaticSA, m)
		x.EncrKey.Destroy()
		x.IntegKey.Destroy()
	}
	return nil
}

func limits(m *wire.Message, l *sad.Limits, tfc uint32) {
	if l.SoftTime > 0 {
		m.Set("soft_time", l.SoftTime.String())
	}
	if l.HardTime > 0 {
		m.Set("hard_time", l.HardTime.String())
	}
	for _, x := range []struct {
		key string
		n   uint64
	}{{"soft_bytes", l.SoftBytes}, {"hard_bytes", l.HardBytes}, {"soft_packets", l.SoftPackets}, {"hard_packets", l.HardPackets}, {"tfc_padding", uint64(tfc)}} {
		if x.n > 0 {
			m.SetUint(x.key, x.n)
		}
	}
}

// algorithm is the suite of an SA in the words of a proposal.
func algorithm(sa *sad.SA) string {
	var words []string
	for _, t := range []suite.Transform{sa.Encr, sa.Integ} {
		if w := t.Keyword(); w != "" {
			words = append(words, w)
		}
	}
	if sa.ESN {
		words = append(words, "esn")
	}
	return strings.Join(words, "-")
}

func texts(list []spd.TS) (out []string) {
	for _, t := range list {
		out = append(out, t.String())
	}
	return out
}

// staticPolicies streams policies with the keys that static-policy-add reads.
func (s *Server) staticPolicies(c *call) wire.Message {
	for _, p := range s.engine.StaticPolicies() {
		var m wire.Message
		m.Set("name", printable(p.Name))
		m.Set("action", []string{"discard", "bypass", "protect"}[p.Action])
		m.SetList("local_ts", texts(p.Local)...)
		m.SetList("remote_ts", texts(p.Remote)...)
		m.SetUint("priority", uint64(p.Priority))
		if p.Dirs != spd.Both {
			m.Set("dir", []string{"both", "out", "in"}[p.Dirs])
		}
		if p.Action == spd.Protect {
			m.Set("reqid", fmt.Sprintf("0x%x", p.ReqID))
			m.Set("mode", modeWords[p.Mode])
			m.Set("proto", protoWords[max(p.Proto, 50)-50])
			if p.OuterLocal.IsValid() {
				m.Set("outer_local", p.OuterLocal.String())
			}
			if p.OuterRemote.IsValid() {
				m.Set("outer_remote", p.OuterRemote.String())
			}
			var bundle []string
			for _, t := range p.Bundle {
				b := fmt.Sprintf("%s/%s/0x%x", protoWords[max(t.Proto, 50)-50], modeWords[t.Mode], t.ReqID)
				if t.Mode != spd.Transport {
					b += "/" + t.Local.String() + "/" + t.Remote.String()
				}
				bundle = append(bundle, b)
			}
			if bundle != nil {
				m.SetList("bundle", bundle...)
			}
		}
		c.event(evStaticPolicy, m)
	}
	return nil
}
