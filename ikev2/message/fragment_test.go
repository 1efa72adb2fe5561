package message

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// receive opens frames in that order and returns the message.
func receive(s Sealer, frames [][]byte) (*Message, error) {
	var r Reassembler
	for _, f := range frames {
		o, err := Open(s, bytes.Clone(f))
		if err != nil {
			return nil, err
		}
		if !o.IsFragment() {
			return o.Message()
		}
		first, plain, complete, err := r.Add(o)
		if err != nil {
			return nil, err
		}
		if complete {
			return ParseInner(o.Header, first, plain)
		}
	}
	return nil, errors.New("the message never became complete")
}

// big is an IKE_AUTH request with a certificate of n octets.
func big(n int) []Payload {
	return []Payload{pIDi, &Cert{Encoding: CertX509, Data: bytes.Repeat([]byte{0x5a}, n)}, pAuth, espSA(), selectors(false), selectors(true)}
}

func open(t testing.TB, f []byte) Opened {
	t.Helper()
	o, err := Open(testSealer(), bytes.Clone(f))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func frames(t testing.TB, n, size int) [][]byte {
	t.Helper()
	fs, err := SealFragments(head(ExchangeIKEAuth, 1, false), big(n), testSealer(), size)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// RFC 7383, Section 2.5: every fragment fits, all but the last are full, they
// are numbered from 1, only the first names the first payload, and what fits
// into one message is not fragmented.
func TestFragmentLayout(t *testing.T) {
	for _, block := range []int{1, 8, 16} {
		for _, size := range []int{150, 576 - 28, 1280 - 48 - 4, MaxMessageLen(1500, false, true)} {
			s := testSealer()
			s.block = block
			fs, err := SealFragments(head(ExchangeIKEAuth, 1, false), big(3000), s, size)
			if err != nil {
				t.Fatal(err)
			}
			for i, f := range fs {
				e, err := FindEncrypted(f)
				if err != nil {
					t.Fatal(err)
				}
				first := NoPayload
				if i == 0 {
					first = TypeIDi
				}
				if int(e.Fragment) != i+1 || int(e.Total) != len(fs) || e.First != first || f[16] != byte(TypeSKF) {
					t.Errorf("fragment %d of %d: %+v", i+1, len(fs), e)
				}
				if len(f) > size || i < len(fs)-1 && len(f) <= size-block {
					t.Errorf("fragment %d of %d has %d octets, limit %d, block %d", i+1, len(fs), len(f), size, block)
				}
			}
			if m, err := receive(s, fs); err != nil || len(m.Payloads) != 6 {
				t.Error(err)
			}
		}
	}
	whole, err := Seal(head(ExchangeIKEAuth, 1, false), big(10), testSealer())
	if err != nil {
		t.Fatal(err)
	}
	if fs, err := SealFragments(head(ExchangeIKEAuth, 1, false), big(10), testSealer(), len(whole)); err != nil || len(fs) != 1 || !bytes.Equal(fs[0], whole) {
		t.Errorf("what just fits became %d messages, %v", len(fs), err)
	}
	if fs, err := SealFragments(head(ExchangeIKEAuth, 1, false), big(10), testSealer(), len(whole)-1); err != nil || len(fs) != 2 {
		t.Errorf("one octet less became %d messages, %v", len(fs), err)
	}
}

// The largest chain goes through at the smallest MTU; what cannot go through is
// an error with a way out.
func TestFragmentLimits(t *testing.T) {
	size := MaxMessageLen(576, false, true)
	fs := frames(t, 65000, size)
	if len(fs) > MaxFragments {
		t.Errorf("%d fragments", len(fs))
	}
	if m, err := receive(testSealer(), fs); err != nil || len(m.Payloads[1].(*Cert).Data) != 65000 {
		t.Error(err)
	}
	for _, bad := range []int{-1, 0, 28, 36, 36 + 8 + 16, 36 + 8 + 16 + 1, 100} {
		if fs, err := SealFragments(head(ExchangeIKEAuth, 1, false), big(40000), testSealer(), bad); err == nil {
			t.Errorf("limit %d: %d fragments", bad, len(fs))
		}
	}
}

// racoon's CVE-2016-10396 and the fault of its fix: in every order and with
// every duplicate the message comes out once, at the last missing fragment.
func TestReassemblyOrderAndDuplicates(t *testing.T) {
	fs := frames(t, 700, 300)
	want := open(t, fs[0]).First
	rapid.Check(t, func(t *rapid.T) {
		var r Reassembler
		seen := map[int]bool{}
		order := append(rapid.SliceOfN(rapid.IntRange(0, len(fs)-1), 0, 20).Draw(t, "early"), rapid.Permutation([]int{0, 1, 2, 3}).Draw(t, "all")...)
		if len(fs) != 4 {
			t.Fatalf("%d fragments", len(fs))
		}
		done := false
		for _, i := range order {
			o, err := Open(testSealer(), bytes.Clone(fs[i]))
			if err != nil {
				t.Fatal(err)
			}
			first, plain, complete, err := r.Add(o)
			if seen[i] || done {
				if reasonOf(err) != ReasonFragmentDuplicate || complete {
					t.Fatalf("duplicate of %d: complete %t, %v", i+1, complete, err)
				}
				continue
			}
			seen[i] = true
			if err != nil || complete != (len(seen) == len(fs)) {
				t.Fatalf("fragment %d: complete %t, %v", i+1, complete, err)
			}
			if complete {
				done = true
				if m, err := ParseInner(o.Header, first, plain); err != nil || first != want || len(m.Payloads) != 6 {
					t.Fatal(err)
				}
			}
		}
		if !done {
			t.Fatal("the message never became complete")
		}
	})
}

// RFC 7383, Section 2.6: a larger total starts again and a smaller one is
// dropped; the two are never mixed.
func TestReassemblyTotalChanges(t *testing.T) {
	few, many := frames(t, 700, 300), frames(t, 700, 200)
	var r Reassembler
	for _, f := range few[:len(few)-1] {
		if _, _, _, err := r.Add(open(t, f)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, complete, err := r.Add(open(t, many[0])); err != nil || complete {
		t.Fatal(err)
	}
	if have, total := r.Pending(); have != 1 || total != len(many) {
		t.Errorf("holds %d of %d, want 1 of %d", have, total, len(many))
	}
	_, _, _, err := r.Add(open(t, few[len(few)-1]))
	wantError(t, err, Drop, NoNotify, ReasonFragmentTotal)
	for i, f := range many[1:] {
		o := open(t, f)
		first, plain, complete, err := r.Add(o)
		if err != nil || complete != (i == len(many)-2) {
			t.Fatalf("complete %t, %v", complete, err)
		}
		if complete {
			if _, err := ParseInner(o.Header, first, plain); err != nil {
				t.Error(err)
			}
		}
	}
	// Once complete, nothing starts again before Reset.
	_, _, _, err = r.Add(open(t, frames(t, 700, 150)[0]))
	wantError(t, err, Drop, NoNotify, ReasonFragmentDuplicate)
	r.Reset()
	if _, _, _, err = r.Add(open(t, few[0])); err != nil {
		t.Error(err)
	}
}

// Fragments of another message, exchange, direction or IKE SA are not mixed in.
func TestReassemblyOtherMessage(t *testing.T) {
	f := open(t, frames(t, 700, 300)[0])
	second := open(t, frames(t, 700, 300)[1])
	for name, change := range map[string]func(h *Header){
		"SPIi":       func(h *Header) { h.SPIi[0]++ },
		"SPIr":       func(h *Header) { h.SPIr[0]++ },
		"message ID": func(h *Header) { h.MessageID++ },
		"exchange":   func(h *Header) { h.Exchange++ },
		"flags":      func(h *Header) { h.Flags ^= FlagResponse },
	} {
		var r Reassembler
		if _, _, _, err := r.Add(f); err != nil {
			t.Fatal(err)
		}
		o := second
		change(&o.Header)
		_, _, _, err := r.Add(o)
		t.Run(name, func(t *testing.T) { wantError(t, err, Drop, NoNotify, ReasonFragmentMismatch) })
		if have, _ := r.Pending(); have != 1 {
			t.Errorf("%s: holds %d", name, have)
		}
	}
}

// CVE-2013-6076, CVE-2016-1287: fragment numbers and totals of 0, beyond the
// total, beyond the limit, and short SKF payloads.
func TestFragmentNumbers(t *testing.T) {
	good := frames(t, 700, 300)[1]
	for _, c := range []struct {
		number, total uint16
		reason        Reason
	}{
		{0, 0, ReasonFragmentNumber}, {0, 4, ReasonFragmentNumber}, {1, 0, ReasonFragmentNumber},
		{5, 4, ReasonFragmentNumber}, {65535, 65534, ReasonFragmentNumber}, {65535, 65535, ""}, {1, 65535, ""},
	} {
		b := bytes.Clone(good)
		b[32], b[33], b[34], b[35] = byte(c.number>>8), byte(c.number), byte(c.total>>8), byte(c.total)
		e, err := FindEncrypted(b)
		if reasonOf(err) != c.reason {
			t.Errorf("%d of %d: %v", c.number, c.total, err)
		}
		if err == nil {
			var r Reassembler
			wantError(t, r.Wanted(e), Drop, NoNotify, ReasonFragmentTotal)
		}
		// Whatever was found, Add defends itself.
		var r Reassembler
		_, _, _, err = r.Add(Opened{Encrypted: Encrypted{Header: e.Header, Fragment: c.number, Total: c.total}})
		wantDrop(t, err)
		if r.parts != nil {
			t.Errorf("%d of %d: memory was taken", c.number, c.total)
		}
	}
	h := head(ExchangeIKEAuth, 1, false)
	for n := range 4 {
		b, err := (&Message{Header: h, Payloads: []Payload{rawPayload{TypeSKF, make([]byte, n)}}}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(testSealer(), b)
		wantError(t, err, Drop, NoNotify, ReasonFragmentNumber)
	}
	b, err := (&Message{Header: h, Payloads: []Payload{&VendorID{}, rawPayload{TypeSKF, []byte{0, 1, 0, 1}}}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(testSealer(), b)
	wantError(t, err, Drop, NoNotify, ReasonFragmentMismatch)
}

// A set that never completes holds at most the budget, and after the budget is
// exceeded the next message gets through.
func TestReassemblyBudget(t *testing.T) {
	r := Reassembler{Octets: 1000, Fragments: 10}
	h := head(ExchangeIKEAuth, 1, false)
	add := func(number, total uint16, n int) error {
		_, _, _, err := r.Add(Opened{Encrypted: Encrypted{Header: h, Fragment: number, Total: total}, Plain: make([]byte, n)})
		return err
	}
	wantError(t, add(1, 11, 1), Drop, NoNotify, ReasonFragmentTotal)
	for i := range uint16(5) {
		if err := add(i+1, 10, 200); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, add(6, 10, 1), Drop, NoNotify, ReasonFragmentBudget)
	if have, total := r.Pending(); have != 0 || total != 0 || r.parts != nil || r.Octets != 1000 {
		t.Errorf("holds %d of %d", have, total)
	}
	if err := add(1, 2, 500); err != nil {
		t.Error(err)
	}
	// Empty fragments count like others.
	r.Reset()
	if err := add(1, 2, 0); err != nil {
		t.Error(err)
	}
	wantError(t, add(1, 2, 0), Drop, NoNotify, ReasonFragmentDuplicate)
	if _, _, complete, err := r.Add(Opened{Encrypted: Encrypted{Header: h, Fragment: 2, Total: 2}}); err != nil || !complete {
		t.Errorf("complete %t, %v", complete, err)
	}
}

// An SK payload is no fragment, and a fragment is no message.
func TestFragmentOrMessage(t *testing.T) {
	b, err := Seal(head(ExchangeIKEAuth, 1, false), nil, testSealer())
	if err != nil {
		t.Fatal(err)
	}
	var r Reassembler
	_, _, _, err = r.Add(open(t, b))
	wantError(t, err, Drop, NoNotify, ReasonFragmentMismatch)
	_, err = open(t, frames(t, 700, 300)[0]).Message()
	wantError(t, err, Drop, NoNotify, ReasonFragmentMismatch)
}

// The room for an IKE message in a packet.
func TestMaxMessageLen(t *testing.T) {
	for _, c := range []struct {
		mtu        int
		v6, marker bool
		want       int
	}{{576, false, false, 548}, {576, false, true, 544}, {1280, true, true, 1228}, {1500, false, false, 1472}} {
		if got := MaxMessageLen(c.mtu, c.v6, c.marker); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}
