package conf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"iked/internal/secret"
)

// Radius is a RADIUS server (RFC 2865).
type Radius struct {
	Name          string
	Address       netip.Addr
	AuthPort      uint16
	Secret        secret.Bytes
	NASIdentifier string
	// RetransmitTimeout is the first wait for an answer; each following one is
	// RetransmitBase times as long, and after RetransmitTries repetitions the next
	// server is asked.
	RetransmitTimeout time.Duration
	RetransmitTries   int
	RetransmitBase    float64
	pos               Pos
}

// shortRadiusSecret is below how many octets RFC 2865, Section 3 wants no secret.
const shortRadiusSecret = 16

func radiusFields() []field[Radius] {
	return []field[Radius]{
		{key: "address", typ: "address", doc: "Address of the server. Required.", set: value(address, func(r *Radius) *netip.Addr { return &r.Address })},
		{key: "auth_port", typ: "number", def: "1812", doc: "UDP port of the server.", set: unsigned(1, 65535, func(r *Radius) *uint16 { return &r.AuthPort })},
		{key: "secret", typ: "text", doc: "Secret shared with the server, written as psk: best as file: and a name. Required.", set: setSecret(func(r *Radius) *secret.Bytes { return &r.Secret })},
		{key: "nas_identifier", typ: "text", def: "iked", doc: "What this system is called in requests.", set: value(func(s string) (string, error) {
			if s == "" || len(s) > 253 {
				return "", fmt.Errorf("expected a text of 1 to 253 octets, found %d", len(s))
			}
			return s, nil
		}, func(r *Radius) *string { return &r.NASIdentifier })},
		{key: "retransmit_timeout", typ: "time", def: "2s", doc: "How long to wait for an answer before the request is sent again.", set: positive(func(r *Radius) *timeDuration { return &r.RetransmitTimeout })},
		{key: "retransmit_tries", typ: "number", def: "2", doc: "How often it is sent again before the next server is asked. All of it must fit the peer's patience: after 25 seconds the user is refused.", set: integer(0, 20, func(r *Radius) *int { return &r.RetransmitTries })},
		{key: "retransmit_base", typ: "number", def: "1.4", doc: "Each wait is that much longer than the one before.", set: value(func(s string) (float64, error) {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil || !(f >= 1 && f <= 10) {
				return 0, fmt.Errorf("expected a number from 1 to 10, found %s", quote(s))
			}
			return f, nil
		}, func(r *Radius) *float64 { return &r.RetransmitBase })},
	}
}

func (l *loader) radius(t *Tree) *Radius {
	r := &Radius{Name: t.Name, AuthPort: 1812, NASIdentifier: "iked", RetransmitTimeout: 2 * second, RetransmitTries: 2, RetransmitBase: 1.4, pos: t.Pos}
	before := len(l.faults)
	given := fill(l, radiusFields(), r, t, nil)
	var missing []string
	for _, k := range []string{"address", "secret"} {
		if !given[k] {
			missing = append(missing, k)
		}
	}
	switch {
	case len(l.faults) > before:
	case len(missing) > 0:
		l.fault(t.Pos, "add "+strings.Join(missing, " and "), "the RADIUS server lacks %s", strings.Join(missing, " and "))
	case r.Secret.Len() < shortRadiusSecret:
		l.warn(t.Pos.sub("secret", 0), "use 16 random octets or more", "the secret has %d octets; whoever sees a request can try shorter ones (RFC 2865, Section 3)", r.Secret.Len())
	}
	return r
}
