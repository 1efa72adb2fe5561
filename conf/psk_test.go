package conf

import (
	"math/rand/v2"
	"testing"
	"time"

	"iked/internal/ident"
	"iked/internal/secret"
)

// The look-up by identity finds what a look at every secret finds: the best match
// of the peer, then of this side, then the first.
func TestPSKsFindTheBest(t *testing.T) {
	texts := []string{"moon", "MOON", "sun", "sun.example.org", "*.example.org", "%any", "10.0.0.1", "10.0.0.0/24", "C=CH, O=x, CN=sun", "C=CH, O=x, CN=*", "a@example.org", "@#0102"}
	var ids []ident.ID
	for _, s := range texts {
		id, err := ident.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func() ident.ID { return ids[r.IntN(len(ids))] }
	found := 0
	for range 2000 {
		var all []*Secret
		for range r.IntN(6) {
			s := &Secret{Type: SecretIKE, Data: secret.New([]byte("x"))}
			for range r.IntN(3) {
				s.Owners = append(s.Owners, pick())
			}
			all = append(all, s)
		}
		local, remote := pick(), pick()
		var want *Secret
		var bestMe, bestPeer ident.Rank
		for _, s := range all {
			me, peer, ok := ranks(s.Owners, local, remote)
			if ok && (want == nil || peer > bestPeer || peer == bestPeer && me > bestMe) {
				want, bestMe, bestPeer = s, me, peer
			}
		}
		got, ok := NewPSKs(all).Find(local, remote)
		if got != want || ok != (want != nil) {
			t.Fatalf("for %s and %s: found %v, expected %v of %v", local, remote, got, want, all)
		}
		if ok {
			found++
		}
	}
	if found < 500 {
		t.Errorf("only %d look-ups found a secret", found)
	}
}

// A secret of type xauth is a user's, by a name that is compared letter by letter,
// and never a pre-shared key.
func TestUserSecrets(t *testing.T) {
	cfg, faults := Parse("/nowhere/iked.yaml", []byte("secrets:\n  - {psk: \"sesame\", type: xauth, id: [bob, alice@example.org]}\n  - {psk: \"other\", id: [bob]}\n"), time.Now())
	if faults.Failed() {
		t.Fatal(faults.Err())
	}
	p := NewPSKs(cfg.Secrets)
	for name, want := range map[string]bool{"bob": true, "alice@example.org": true, "Bob": false, "": false, "eve": false, "%any": false} {
		s, ok := p.User(name)
		if ok != want || ok && string(s.Reveal()) != "sesame" {
			t.Errorf("user %q: found %t, expected %t", name, ok, want)
		}
	}
	bob, err := ident.Parse("bob")
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := p.Find(bob, bob); !ok || string(s.Data.Reveal()) != "other" {
		t.Error("the user's password was taken for a pre-shared key")
	}
}
