package kink

import (
	"time"

	quick "iked/ikev1/message"
	"iked/internal/keyex"
	"iked/kink/message"
)

// Route finds who takes a command: one of the SAs of this host, or a new one for a
// configuration. Both nil: a CREATE is refused, by Refuse, and others are dropped. An
// SA for other commands than CREATE answers and is forgotten.
func (c *Command) Route(env Env, list []*SA, candidates []*keyex.Config) (to *SA, cfg *keyex.Config) {
	for _, sa := range list {
		if sa.Knows(c) {
			return sa, nil
		}
	}
	if c.Type == message.Ack {
		return nil, nil
	}
	cfg = c.choose(env, candidates)
	for _, sa := range list {
		if cfg != nil && !sa.greeting && sa.cfg.Name == cfg.Name && sa.peer == c.Client && sa.own == c.Server && sa.At(unmap(c.Remote).Addr()) && !sa.deleting {
			return sa, nil
		}
	}
	return nil, cfg
}

// Refuse is the authentic REPLY to a CREATE that no connection is for.
func (c *Command) Refuse(epoch uint32) ([]byte, error) {
	n := &quick.Notify{DOI: quick.DOIIPsec, Protocol: quick.ProtoESP, Kind: quick.AuthenticationFailed}
	return c.reply(epoch, &message.Body{ISAKMP: []*message.ISAKMP{{Payloads: []quick.Payload{n}}}}, false)
}

// choose is the configuration for a CREATE: the first of list, best first, that is for
// the principals of both sides and has a child for what the peer wants; else the first
// that is for the principals. Nil: none is (the PAD of RFC 4301, Section 4.4.3).
func (c *Command) choose(env Env, list []*keyex.Config) *keyex.Config {
	var first *keyex.Config
	for _, cfg := range list {
		if !c.allowed(cfg) {
			continue
		}
		if first == nil {
			first = cfg
		}
		if c.Type == message.Create && len(c.inner.ISAKMP) == 1 {
			theirs, ok := one[*quick.SA](c.inner.ISAKMP[0].Payloads, quick.TypeSA)
			probe := &createAnswer{answer: &answer{sa: &SA{env: env, cfg: cfg, own: c.Server, peer: c.Client, local: unmap(c.Local), remote: unmap(c.Remote)}, cmd: c}}
			if !ok {
				continue
			}
			if _, f := probe.findChild(time.Time{}, c.inner.ISAKMP[0].Payloads, theirs); f == nil {
				return cfg
			}
		}
	}
	return first
}

// allowed tells whether a configuration is for the principals of a command.
func (c *Command) allowed(cfg *keyex.Config) bool {
	if cfg.Local.ID.Data != c.Server.String() {
		return false
	}
	p, err := ParsePattern(cfg.Remote.ID.Data)
	return err == nil && c.Client.Match(p)
}
