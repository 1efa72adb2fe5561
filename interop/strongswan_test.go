package interop

import (
	"slices"
	"testing"
	"time"

	"iked/internal/testnet"
)

// testCase is a line of the matrix. A initiates always; each case runs with iked
// in the place of A and in that of B, and behind a NAT is always A.
type testCase struct {
	group, name string
	outer       int   // family of the outside: 4 (0 too) or 6
	inner       []int // families of the inside; none: 4
	between     testnet.Between
	mtu         int

	ike, esp string // proposals, several with commas; empty: the usual ones of this table
	default_ bool   // no proposals in the configuration at all
	// wantIKE and wantESP are parts of what list-sas prints; empty: not checked.
	wantIKE, wantESP string
	// pki makes CA and certificates; nil: none are needed.
	pki func() *keyring
	// setup changes the network before the daemons start.
	setup func(p *pair)
	// edit changes the configuration of one side.
	edit func(s side, conn, child *Section, c *Config)
	// charon are settings of strongswan.conf.
	charon string
	// plugins of strongSwan beside the usual ones.
	plugins string
	// before runs before the daemons start.
	before func(p *pair)
	// ping replaces the usual traffic.
	ping func(p *pair)
	// then is what the case is about, after the tunnel is up and has carried
	// packets.
	then func(p *pair, first state)
}

func (c *testCase) families() []int {
	if len(c.inner) == 0 {
		return []int{4}
	}
	return c.inner
}

// config is the configuration of one side, the same for both daemons.
func (c *testCase) config(s side) Config {
	var localTS, remoteTS []string
	for _, f := range c.families() {
		if f == 4 {
			localTS, remoteTS = append(localTS, s.lan4), append(remoteTS, s.far4)
		} else {
			localTS, remoteTS = append(localTS, s.lan6), append(remoteTS, s.far6)
		}
	}
	ike, esp := split(c.ike, "aes128-sha256-x25519"), split(c.esp, "aes128gcm16")
	child := Section{{"local_ts", localTS}, {"remote_ts", remoteTS}}
	conn := Section{
		{"version", "2"}, {"local_addrs", []string{s.wan.String()}}, {"remote_addrs", []string{s.peer.String()}}, {"mobike", "no"},
	}
	if !c.default_ {
		conn.Set("proposals", ike)
		child.Set("esp_proposals", esp)
	}
	conn.Set("local", Section{{"auth", "psk"}, {"id", s.id}})
	conn.Set("remote", Section{{"auth", "psk"}, {"id", s.peerID}})
	conf := Config{Secrets: []Secret{{PSK: "a throw-away secret", IDs: []string{"a.example", "b.example"}}}}
	if c.edit != nil {
		c.edit(s, &conn, &child, &conf)
	}
	conn.Set("children", Section{{"net", child}})
	conf.Connections = Section{{"net", conn}}
	return conf
}

func TestStrongSwan(t *testing.T) {
	all := slices.Concat(cases, mobikeCases, v1Cases)
	for order := range all {
		c := &all[order]
		for _, at := range []string{"A", "B"} {
			role := "initiator"
			if at == "B" {
				role = "responder"
			}
			t.Run(c.group+"/"+c.name+"/"+role, func(t *testing.T) {
				t.Parallel()
				r := row{group: c.group, name: c.name, role: role, order: order}
				defer func() {
					r.result = "pass"
					if t.Failed() {
						r.result = "FAIL"
					}
					if t.Skipped() {
						r.result = "not run"
					}
					matrix.add(r)
				}()
				c.run(t, at, &r)
			})
		}
	}
}

func (c *testCase) run(t *testing.T, ikedAt string, r *row) {
	p := newPair(t, c, ikedAt)
	if err := p.a.Initiate(p.ctx, "net"); err != nil {
		t.Fatal(err)
	}
	first := p.agree("net")
	r.ike, r.esp = first.ikeA.Cipher(), first.childA.Cipher()
	if !contains(r.ike, c.wantIKE) {
		t.Errorf("the IKE SA has %s, want %s", r.ike, c.wantIKE)
	}
	if !contains(r.esp, c.wantESP) {
		t.Errorf("the CHILD SA has %s, want %s", r.esp, c.wantESP)
	}
	p.traffic(c)
	if c.then != nil {
		c.then(p, first)
		p.traffic(c)
	}
	last := p.agree("net")
	p.counted("A", last.childA)
	p.counted("B", last.childB)
	p.wire.Stop()
	p.onWire()
	p.end()
}

// rekeyed waits until both sides agree on a CHILD SA that is another one, or on
// another IKE SA too.
func (p *pair) rekeyed(first state, ike bool) state {
	p.Helper()
	for {
		s := p.agree("net")
		switch {
		case ike && s.ikeA.InitiatorSPI != first.ikeA.InitiatorSPI && s.ikeA.ResponderSPI != first.ikeA.ResponderSPI:
			return s
		case !ike && s.childA.SPIIn != first.childA.SPIIn && s.childA.SPIOut != first.childA.SPIOut:
			if s.ikeA.InitiatorSPI != first.ikeA.InitiatorSPI {
				p.Error("the IKE SA changed when a CHILD SA was to be rekeyed")
			}
			return s
		}
		if sleep(p.ctx, 50*time.Millisecond) != nil {
			p.Fatal("no new SPIs after the rekeying")
		}
	}
}

// rekey rekeys from one side under traffic, and wants no packet lost: the new SA
// is there before the old one goes (RFC 7296, Section 2.8).
func rekey(from, what string) func(*pair, state) {
	return func(p *pair, first state) {
		p.Helper()
		by := p.a
		if from == "B" {
			by = p.b
		}
		args := map[string]any{what: "net"}
		r := p.duringTraffic(func() {
			if _, err := by.Call(p.ctx, "rekey", args); err != nil {
				p.Fatal(err)
			}
			p.rekeyed(first, what == "ike")
		})
		if r.Lost() > 0 || r.Sent == 0 {
			p.Errorf("pings while the %s SA was rekeyed: %v", what, r)
		}
	}
}
