package ikev2_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
)

// explore runs a scenario once for every sequence of choices, or until limit.
func explore(t *testing.T, limit int, run func(choose func(n int) int) error) {
	t.Helper()
	var path, width []int
	runs := 0
	for {
		at := 0
		err := run(func(n int) int {
			if at == len(path) {
				path, width = append(path, 0), append(width, n)
			}
			c := path[at]
			at++
			return c
		})
		runs++
		if err != nil {
			t.Fatalf("choices %v: %v", path[:at], err)
		}
		path, width = path[:at], width[:at]
		i := len(path) - 1
		for ; i >= 0 && path[i]+1 >= width[i]; i-- {
		}
		if i < 0 {
			t.Logf("%d interleavings", runs)
			return
		}
		if runs == limit {
			t.Logf("stopped after %d interleavings", runs)
			return
		}
		path, width = path[:i+1], width[:i+1]
		path[i]++
	}
}

// Expectations of collide other than a number of children.
const (
	anyChildren = -1
	noSA        = -2 // no IKE SA, or an agreement
)

// collide starts tasks on both sides at once and tries every order of arrival,
// with up to lose messages lost; in the end both sides agree on want children, below 0 on any number,
// or, with none, also on having no IKE SA.
func collide(t *testing.T, want, lose int, start func(p *pair)) {
	t.Helper()
	seeds := uint64(4) // different nonces: either side has the lowest
	limit := 4000
	if testing.Short() {
		seeds, limit = 2, 300
	}
	for seed := range seeds {
		explore(t, limit, func(choose func(n int) int) error {
			p := newPair(t, seed)
			p.up(t)
			p.net.Trace = nil
			lost := 0
			p.net.Choose = func(n int) int {
				options := n
				if lost < lose {
					options++ // the first one gets lost
				}
				if options == 1 {
					return 0
				}
				c := choose(options)
				if c == n {
					lost++
				}
				return c
			}
			start(p)
			p.net.Run(5 * time.Minute)
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				for _, c := range h.Closed {
					if want != noSA && c.Reason != ikev2.CloseRekeyed {
						return fmt.Errorf("seed %d: %s closed an IKE SA: %v\n%s%s", seed, h.Name, c.Reason, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
					}
				}
			}
			if want == noSA && len(p.a.SAs)+len(p.b.SAs) == 0 {
				if n := len(p.a.In) + len(p.a.Out) + len(p.b.In) + len(p.b.Out) + len(p.a.Reserved) + len(p.b.Reserved); n != 0 {
					return fmt.Errorf("seed %d: %d things are left in the backends", seed, n)
				}
				return nil
			}
			if err := ikev2test.Consistent(p.a, p.b, want); err != nil {
				return fmt.Errorf("seed %d: %w\n%s%s", seed, err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
			}
			// What is told is what there is: each replaced child had come before, and
			// what is up at the end is there.
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				if err := told(h); err != nil {
					return fmt.Errorf("seed %d: %w\n%s%s", seed, err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
				}
			}
			return nil
		})
	}
}

// told checks that the events of a host tell of exactly the children it has.
func told(h *ikev2test.Host) error {
	alive := map[uint32]bool{}
	for _, e := range h.Events {
		switch e := e.(type) {
		case ikev2.ChildUp:
			alive[e.Child.UniqueID] = true
		case ikev2.ChildReplaced:
			if !alive[e.Old.UniqueID] {
				return fmt.Errorf("%s: child %d is replaced, nobody was told of it", h.Name, e.Old.UniqueID)
			}
			delete(alive, e.Old.UniqueID)
			alive[e.New.UniqueID] = true
		case ikev2.ChildDown:
			if !alive[e.Child.UniqueID] {
				return fmt.Errorf("%s: child %d is down, nobody was told of it", h.Name, e.Child.UniqueID)
			}
			delete(alive, e.Child.UniqueID)
		}
	}
	n := 0
	for _, sa := range h.SAs {
		for _, c := range sa.Children() {
			n++
			if !alive[c.UniqueID] {
				return fmt.Errorf("%s: child %d is there, nobody was told of it", h.Name, c.UniqueID)
			}
		}
	}
	if n != len(alive) {
		return fmt.Errorf("%s: told of %d children, %d are there", h.Name, len(alive), n)
	}
	return nil
}

func rekeyChild(h *ikev2test.Host) {
	sa := h.SAs[0]
	h.Start(sa, ikev2.RekeyChild{SPI: sa.Children()[0].SPIIn})
}

func deleteChild(h *ikev2test.Host) {
	sa := h.SAs[0]
	h.Start(sa, ikev2.DeleteChild{SPI: sa.Children()[0].SPIIn})
}

func rekeyIKE(h *ikev2test.Host)  { h.Start(h.SAs[0], ikev2.RekeyIKE{}) }
func deleteIKE(h *ikev2test.Host) { h.Start(h.SAs[0], ikev2.Delete{}) }

// RFC 7296, Section 2.8: a CHILD_SA is rekeyed by either side.
func TestRekeyChild(t *testing.T) {
	for _, side := range []func(p *pair) *ikev2test.Host{func(p *pair) *ikev2test.Host { return p.a }, func(p *pair) *ikev2test.Host { return p.b }} {
		collide(t, 1, 2, func(p *pair) { rekeyChild(side(p)) })
	}
}

// RFC 7296, Section 2.18: an IKE SA is rekeyed by either side and its successor
// has the children.
func TestRekeyIKE(t *testing.T) {
	for _, side := range []func(p *pair) *ikev2test.Host{func(p *pair) *ikev2test.Host { return p.a }, func(p *pair) *ikev2test.Host { return p.b }} {
		collide(t, 1, 2, func(p *pair) { rekeyIKE(side(p)) })
	}
}

// RFC 7296, Section 2.8.1: of simultaneous rekeyings of a CHILD_SA one remains.
func TestCollisionRekeyChildRekeyChild(t *testing.T) {
	collide(t, 1, 1, func(p *pair) { rekeyChild(p.a); rekeyChild(p.b) })
}

// RFC 7296, Section 2.8.2: of simultaneous rekeyings of the IKE SA one remains
// and has the children.
func TestCollisionRekeyIKERekeyIKE(t *testing.T) {
	collide(t, 1, 1, func(p *pair) { rekeyIKE(p.a); rekeyIKE(p.b) })
}

// RFC 7296, Section 2.25.2: rekeying of a CHILD_SA and of the IKE SA at once.
func TestCollisionRekeyChildRekeyIKE(t *testing.T) {
	collide(t, 1, 1, func(p *pair) { rekeyChild(p.a); rekeyIKE(p.b) })
	collide(t, 1, 1, func(p *pair) { rekeyIKE(p.a); rekeyChild(p.b) })
}

// RFC 7296, Section 1.4.1: both sides delete the same CHILD_SA.
func TestCollisionDeleteChildDeleteChild(t *testing.T) {
	collide(t, 0, 1, func(p *pair) { deleteChild(p.a); deleteChild(p.b) })
}

// RFC 7296, Section 2.25.2: the IKE SA is rekeyed while a CHILD_SA is deleted.
func TestCollisionRekeyIKEDeleteChild(t *testing.T) {
	collide(t, 0, 1, func(p *pair) { rekeyIKE(p.a); deleteChild(p.b) })
	collide(t, 0, 1, func(p *pair) { deleteChild(p.a); rekeyIKE(p.b) })
}

// RFC 7296, Section 2.25.1: a CHILD_SA is rekeyed by one side and deleted by the
// other. Which came first decides; both sides agree on it.
func TestCollisionRekeyChildDeleteChild(t *testing.T) {
	collide(t, anyChildren, 1, func(p *pair) { rekeyChild(p.a); deleteChild(p.b) })
	collide(t, anyChildren, 1, func(p *pair) { deleteChild(p.a); rekeyChild(p.b) })
}

// RFC 7296, Section 2.25.2: the IKE SA is deleted while the other side rekeys it,
// rekeys a CHILD_SA, or deletes it, too.
func TestCollisionDeleteIKE(t *testing.T) {
	collide(t, noSA, 1, func(p *pair) { deleteIKE(p.a); rekeyIKE(p.b) })
	collide(t, noSA, 1, func(p *pair) { deleteIKE(p.b); rekeyIKE(p.a) })
	collide(t, noSA, 1, func(p *pair) { deleteIKE(p.a); rekeyChild(p.b) })
	collide(t, noSA, 1, func(p *pair) { deleteIKE(p.a); deleteIKE(p.b) })
	collide(t, noSA, 1, func(p *pair) { deleteIKE(p.a); deleteChild(p.b) })
}

// RFC 7296, Section 2.25: a new CHILD_SA is made while the other side rekeys the
// IKE SA or another CHILD_SA.
func TestCollisionCreateChild(t *testing.T) {
	create := func(h *ikev2test.Host, c *ikev2.ChildConfig) { h.Start(h.SAs[0], ikev2.CreateChild{Child: c}) }
	collide(t, 2, 1, func(p *pair) { create(p.a, p.cha); rekeyIKE(p.b) })
	collide(t, 2, 1, func(p *pair) { rekeyIKE(p.a); create(p.b, p.chb) })
	collide(t, 2, 1, func(p *pair) { create(p.a, p.cha); rekeyChild(p.b) })
	collide(t, 3, 1, func(p *pair) { create(p.a, p.cha); create(p.b, p.chb) })
}
