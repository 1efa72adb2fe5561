package datapath

import (
	"fmt"

	"iked/crypto/suite"
	"iked/datapath/esp"
	"iked/datapath/ip"
	"iked/internal/backend"
	"iked/spd"
)

// An SA bundle (RFC 4301, Section 4.1 and Appendix E): what the SA of a policy made
// is taken for a packet again, and the SA of each template is applied to it in
// turn. The buffers have room for that many headers and trailers.
const (
	// maxTemplates is how many a policy may have.
	maxTemplates = 2
	headroom     = (1 + maxTemplates) * esp.Headroom
	tailroom     = (1 + maxTemplates) * esp.Tailroom
)

// checkBundle tells what this datapath cannot do of a policy's bundle.
func checkBundle(p *spd.Policy) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("policy %s: %s: %w", p.Name, fmt.Sprintf(format, args...), backend.ErrUnsupported)
	}
	if len(p.Bundle) > maxTemplates {
		return bad("it demands %d SAs one around the other, the userspace datapath applies at most %d", 1+len(p.Bundle), 1+maxTemplates)
	}
	if len(p.Bundle) > 0 && p.Mode == spd.BEET {
		return bad("BEET mode has no place in a bundle: the packet that comes out has addresses of its own; use transport or tunnel mode")
	}
	for i, t := range p.Bundle {
		switch {
		case p.Action != spd.Protect:
			return bad("a bundle is for a policy that protects")
		case t.Proto != ip.ProtoESP && t.Proto != ip.ProtoAH:
			return bad("template %d of its bundle has protocol %d, expected 50 (ESP) or 51 (AH)", i+1, t.Proto)
		case t.ReqID == 0 || t.ReqID == p.ReqID:
			return bad("template %d of its bundle has reqid %d, expected one of its own", i+1, t.ReqID)
		case t.Mode != spd.Tunnel && t.Mode != spd.Transport:
			return bad("template %d of its bundle has mode %d, expected tunnel or transport: BEET fixes the addresses of the inner packet, which is one of IPsec here", i+1, t.Mode)
		}
	}
	return nil
}

// protocol is that of a policy's SAs.
func protocol(proto uint8) suite.Protocol {
	if proto == ip.ProtoAH {
		return suite.ProtoAH
	}
	return suite.ProtoESP
}

// complete tells whether there are SAs for all templates, and what of the path is
// left for the packet of the first one: limit is the size that it may have when it
// is sealed.
func (w *outWorker) complete(p *spd.Policy) (limit int, ok bool) {
	if w.lastSA.Path().Encap != nil {
		// AH covers addresses that a NAT changes, and nothing goes around UDP.
		return 0, false
	}
	limit = 65535
	for i := len(p.Bundle) - 1; i >= 0; i-- {
		sa := w.template(&p.Bundle[i], nil)
		if sa == nil {
			return 0, false
		}
		limit = sa.Limit(limit)
	}
	return limit, true
}

// template is the newest SA for a template; with the flow of the packet that it is
// for, one whose selectors are about that packet or about the one of w.flow.
func (w *outWorker) template(t *spd.Template, f *spd.Flow) *outSA {
	set := w.d.outbound.Get(t.ReqID)
	if set == nil {
		return nil
	}
	for _, sa := range *set.list.Load() {
		s := sa.SA()
		if sa.dead.Load() || s.Mode != t.Mode || s.Proto != protocol(t.Proto) || sa.Path().Encap != nil {
			continue
		}
		if f == nil || f.Match(s.Local, s.Remote) || w.flow.Match(s.Local, s.Remote) {
			return sa
		}
	}
	return nil
}

// bundle applies the templates of the current policy to the sealed packet in buf.
// last is the SA of the outermost header; nil: the packet was dropped and counted.
func (w *outWorker) bundle(sa *outSA, buf []byte) (last *outSA) {
	for i := range w.lastPolicy.Bundle {
		start, _ := sa.Encapsulate(buf, &w.sealed)
		if ip.Parse(buf[start:w.sealed.Off+w.sealed.Len], &w.nested) != ip.OK {
			w.c.outDrop[esp.OutboundInvalid].Add(1)
			return nil
		}
		flow := w.nested.Outbound()
		if sa = w.template(&w.lastPolicy.Bundle[i], &flow); sa == nil {
			w.c.n[outNoSA].Add(1)
			return nil
		}
		w.current = sa
		sa.Touch(w.d.now())
		if !w.wasSealed(sa, sa.Seal(&w.scratch, buf, start, &w.nested, &w.sealed)) {
			return nil
		}
	}
	return sa
}
