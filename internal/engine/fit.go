package engine

import (
	"fmt"
	"slices"
	"strings"

	"iked/conf"
	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/backend"
	"iked/internal/trace"
	"iked/spd"
)

// Unfit tells in a sentence why a backend cannot carry a connection, nil when it
// can: of each child at least one proposal must be carried in its mode, and the
// keys that bind it to devices and marks must be honoured. can is the word of
// Interfaces.Can, nil without.
func Unfit(info backend.Info, can func() error, c *conf.Connection) error {
	for _, ch := range c.Children {
		if ch.Mode == conf.ModePass || ch.Mode == conf.ModeDrop {
			if key := ch.RouteBased(); key != "" && info.Name == "userspace" {
				return needsKernel(c, ch, key)
			}
			continue
		}
		if key := ch.RouteBased(); key != "" && info.Name == "userspace" {
			return needsKernel(c, ch, key)
		}
		if ch.OthersPolicies && info.Name == "userspace" {
			return fmt.Errorf("connection %s, child %s: policies: no needs the kernel backend, for nobody but the daemon puts policies into the userspace datapath; "+
				"set backend: kernel, or remove policies", c.Name, ch.Name)
		}
		if ch.Interface != "" {
			if can == nil {
				return fmt.Errorf("connection %s, child %s: this backend makes no interfaces; remove interface", c.Name, ch.Name)
			}
			if err := can(); err != nil {
				return fmt.Errorf("connection %s, child %s: interface %s cannot be made: %w", c.Name, ch.Name, ch.Interface, err)
			}
		}
		cfg := childConfig(ch)
		kept, lost := carried(info, cfg.Proposals, cfg.Mode)
		if len(kept) == 0 {
			return fmt.Errorf("connection %s, child %s: the %s backend carries none of its proposals: %s", c.Name, ch.Name, info.Name, strings.Join(lost, ", "))
		}
		if ok, why := info.Supports(suite.ProtoIPComp, cfg.Mode, suite.Transform{}, suite.Transform{}, false); cfg.IPComp && !ok {
			return fmt.Errorf("connection %s, child %s: the %s backend does not compress: %s; set ipcomp to no", c.Name, ch.Name, info.Name, why)
		}
		if around, lost := carried(info, cfg.AH, spd.Transport); len(cfg.AH) > 0 && len(around) == 0 {
			return fmt.Errorf("connection %s, child %s: the %s backend carries none of its ah_proposals around ESP: %s", c.Name, ch.Name, info.Name, strings.Join(lost, ", "))
		}
	}
	return nil
}

func needsKernel(c *conf.Connection, ch *conf.Child, key string) error {
	return fmt.Errorf("connection %s, child %s: %s needs the kernel backend, for the userspace datapath has one device for all tunnels; "+
		"set backend: kernel, or remove the key", c.Name, ch.Name, key)
}

// carried are proposals of a child without what a backend cannot carry, and the
// reasons for what was left out, each once.
func carried(info backend.Info, list []suite.Proposal, mode spd.Mode) (kept []suite.Proposal, reasons []string) {
	for _, p := range list {
		if fitted, ok := fitProposal(info, p, mode, func(why string) {
			if !slices.Contains(reasons, why) {
				reasons = append(reasons, why)
			}
		}); ok {
			kept = append(kept, fitted)
		}
	}
	return kept, reasons
}

// fitProposal leaves out of a proposal the algorithms that a backend carries in no
// combination; false when nothing usable is left.
func fitProposal(info backend.Info, p suite.Proposal, mode spd.Mode, refuse func(why string)) (suite.Proposal, bool) {
	of := func(t suite.TransformType) []suite.Transform {
		var list []suite.Transform
		for _, x := range p.Transforms {
			if x.Type == t {
				list = append(list, x)
			}
		}
		if len(list) == 0 {
			list = append(list, suite.Transform{}) // none: AH has no cipher, AEAD no integrity
		}
		return list
	}
	good := make(map[suite.Transform]bool)
	first := true
	var why string
	for _, encr := range of(suite.ENCR) {
		for _, integ := range of(suite.INTEG) {
			if integ.ID == suite.IntegNone && integ.Type != 0 {
				integ = suite.Transform{}
			}
			for _, sn := range of(suite.SN) {
				ok, reason := info.Supports(p.Protocol, mode, encr, integ, sn.ID == suite.SNESN && sn.Type != 0)
				if ok {
					good[encr], good[integ], good[sn] = true, true, true
					continue
				}
				if first {
					why, first = reason, false
				}
			}
		}
	}
	out := suite.Proposal{Protocol: p.Protocol}
	for _, t := range p.Transforms {
		switch {
		case t.Type != suite.ENCR && t.Type != suite.INTEG && t.Type != suite.SN, good[t]:
			out.Transforms = append(out.Transforms, t)
		case t.Type == suite.INTEG && t.ID == suite.IntegNone && good[suite.Transform{}]:
			out.Transforms = append(out.Transforms, t)
		}
	}
	if why != "" && len(out.Transforms) < len(p.Transforms) {
		refuse(why)
	}
	return out, len(good) > 0
}

// fit takes out of the proposals of a connection what the backend cannot carry, so
// that the peer does not choose it, and says so.
func (e *Engine) fit(cfg *ikev2.Config) {
	info := e.opt.Backend.Describe()
	for _, ch := range cfg.Children {
		kept, lost := carried(info, ch.Proposals, ch.Mode)
		around, more := carried(info, ch.AH, spd.Transport)
		lost = append(lost, more...)
		ch.Proposals, ch.AH = kept, around
		if len(lost) > 0 && len(kept) > 0 {
			e.log(trace.Record{Level: trace.Control, Group: trace.CFG, Conn: cfg.Name, Child: ch.Name, Warn: true,
				Msg: fmt.Sprintf("%s/%s: a part of its proposals is neither offered nor accepted, because the %s backend cannot carry it: %s", cfg.Name, ch.Name, info.Name, strings.Join(lost, ", "))})
		}
	}
}

// unfit is Unfit with what this engine has.
func (e *Engine) unfit(c *conf.Connection) error {
	var can func() error
	if e.opt.Interfaces != nil {
		can = e.opt.Interfaces.Can
	}
	return Unfit(e.opt.Backend.Describe(), can, c)
}
