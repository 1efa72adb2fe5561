package engine

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"iked/kink"
)

// reverseResolver is the optional ability of a Resolver; *net.Resolver has it.
type reverseResolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

// maxNames bounds the names of an address that are looked at.
const maxNames = 8

// reverse are the names of an address, which prove nothing.
func (e *Engine) reverse(a netip.Addr) ([]string, error) {
	r, ok := e.opt.Resolver.(reverseResolver)
	if !ok {
		return nil, fmt.Errorf("address %s cannot be looked up: there is no resolver", a)
	}
	ctx, cancel := context.WithTimeout(e.ctx, resolveTimeout)
	defer cancel()
	names, err := r.LookupAddr(ctx, a.String())
	if err != nil {
		return nil, fmt.Errorf("the name of %s cannot be looked up: %w", a, err)
	}
	if len(names) > maxNames {
		names = names[:maxNames]
	}
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], ".")
	}
	return names, nil
}

// principalOf is the service kink of a host, if it is one of a pattern.
func (e *Engine) principalOf(host string, pattern kink.Pattern) (kink.Principal, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	realm, known := pattern.Realm()
	if !known {
		k := e.kerberos.Load()
		if k == nil || k.use == nil {
			return kink.Principal{}, errNoKerberos
		}
		realm = k.use.RealmOf(host)
	}
	p, err := kink.NewPrincipal(realm, "kink", host)
	if err != nil {
		return kink.Principal{}, err
	}
	if !p.Match(pattern) {
		return kink.Principal{}, fmt.Errorf("%s does not match %s", p, pattern)
	}
	return p, nil
}
