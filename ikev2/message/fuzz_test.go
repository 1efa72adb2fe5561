package message

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkError: every error of the package is an *Error with a reason and a
// detail, silent unless the message was protected or its fault is one that RFC
// 7296 answers in clear.
func checkError(t *testing.T, err error, protected bool) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok || e.Reason == "" || e.Detail == "" {
		t.Fatalf("%T without reason: %v", err, err)
	}
	if (e.Action == Drop) != (e.Notify == NoNotify) {
		t.Fatalf("%v with %v", e.Action, e.Notify)
	}
	if !protected && e.Notify == InvalidSyntax {
		t.Fatalf("INVALID_SYNTAX for a message that may be forged: %v", err)
	}
	if e.Error() == "" {
		t.Fatal("no words")
	}
}

// checkMessage: what was read is written and read again as the same, and every
// view of it holds what it promises.
func checkMessage(t *testing.T, m *Message) {
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	first, chain := PayloadType(b[16]), b[28:]
	again, err := parseChain(m.Header, first, chain, m.Protected)
	if err != nil {
		t.Fatalf("what was written is refused: %v", err)
	}
	// Transforms that were passed over are not written, so that a proposal may
	// have become usable or empty; all else is equal.
	for _, ps := range [][]Payload{m.Payloads, again.Payloads} {
		for _, p := range ps {
			if sa, ok := p.(*SA); ok {
				for i := range sa.Proposals {
					sa.Proposals[i].Unusable = ""
				}
			}
		}
	}
	if d := cmp.Diff(m.Payloads, again.Payloads, cmpOpts); d != "" {
		t.Fatal(d)
	}
}

func checkViews(t *testing.T, m *Message) {
	t.Helper()
	must := func(ok bool) {
		t.Helper()
		if !ok {
			t.Fatal("a required payload is nil")
		}
	}
	if v, err := ParseIKESAInitRequest(m); err == nil {
		must(v.SA != nil && v.KE != nil && v.Nonce != nil && len(v.SA.Proposals) > 0)
	} else {
		checkError(t, err, m.Protected)
	}
	if v, err := ParseIKESAInitResponse(m); err == nil {
		must(v.Accepted() && v.KE != nil && v.Nonce != nil && len(v.SA.Proposals) == 1 || len(v.Notifies) > 0)
	} else {
		checkError(t, err, m.Protected)
	}
	if v, err := ParseIKEAuthRequest(m); err == nil {
		must(v.Stage == AuthFirst && v.IDi != nil || v.Stage == AuthEAP && v.EAP != nil || v.Stage == AuthFinal && v.Auth != nil)
		must(v.Stage != AuthFirst || v.SA == nil && v.TSi == nil && v.TSr == nil || v.SA != nil && v.TSi != nil && v.TSr != nil)
	} else {
		checkError(t, err, m.Protected)
	}
	if v, err := ParseIKEAuthResponse(m); err == nil {
		must(v.Stage == AuthFirst && v.IDr != nil || v.Stage == AuthEAP && v.EAP != nil || v.Stage == AuthFinal && v.Auth != nil ||
			v.Stage == AuthRefused && v.Notifies.Error() != nil)
		must(v.SA == nil && v.TSi == nil && v.TSr == nil || v.SA != nil && v.TSi != nil && v.TSr != nil && len(v.SA.Proposals) == 1)
	} else {
		checkError(t, err, m.Protected)
	}
	if v, err := ParseCreateChildSARequest(m); err == nil {
		must(v.SA != nil && v.Nonce != nil)
		must(v.Kind == RekeyIKE && v.KE != nil || (v.Kind == NewChild || v.Kind == RekeyChild) && v.TSi != nil && v.TSr != nil)
	} else {
		checkError(t, err, m.Protected)
	}
	if v, err := ParseCreateChildSAResponse(m); err == nil {
		must(v.Accepted() == (v.Kind != 0))
		must(v.Kind == RekeyIKE && v.KE != nil || v.Kind == NewChild && v.TSi != nil && v.TSr != nil || v.Notifies.Error() != nil)
	} else {
		checkError(t, err, m.Protected)
	}
	if _, err := ParseInformational(m); err != nil {
		checkError(t, err, m.Protected)
	}
}

// Whatever datagram arrives: no panic, an error with a reason or a message that
// survives writing and reading, and no read of the stranger's look that the
// parser would not agree with.
func FuzzMessage(f *testing.F) {
	for _, m := range recorded(f).Messages {
		f.Add([]byte(m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkDatagram(t, b)
		if len(b) >= 28 {
			// Again with the fields right that every other check depends on.
			b = bytes.Clone(b)
			b[17] = Version
			binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
			checkDatagram(t, b)
		}
	})
}

func checkDatagram(t *testing.T, b []byte) {
	before := bytes.Clone(b)
	if e, err := FindEncrypted(b); err != nil {
		checkError(t, err, false)
	} else if e.iv > len(b) {
		t.Fatalf("the IV starts at %d of %d", e.iv, len(b))
	}
	peek, peekErr := PeekIKESAInit(b)
	if peekErr != nil {
		checkError(t, peekErr, false)
	}
	m, err := Parse(b)
	if !bytes.Equal(b, before) {
		t.Fatal("the datagram was changed")
	}
	if err != nil {
		checkError(t, err, false)
		return
	}
	if v, err := ParseIKESAInitRequest(m); err == nil && peekErr == nil {
		if !bytes.Equal(v.Nonce.Data, peek.Nonce) || v.KE.Group != peek.Group {
			t.Fatal("the look at the message found something else than the parser")
		}
	}
	checkViews(t, m)
	checkMessage(t, m)
	if _, err := Open(testSealer(), bytes.Clone(b)); err != nil {
		checkError(t, err, true)
	}
}

// Whatever body a payload of any type has: no panic, an error with a reason, or
// a payload that survives writing and reading.
func FuzzPayload(f *testing.F) {
	for _, c := range messages {
		for _, p := range c.ps {
			f.Add(uint8(p.Type()), p.Append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, typ uint8, body []byte) {
		p, known, err := parsePayload(PayloadType(typ), bytes.Clone(body))
		if err != nil {
			checkError(t, err, true)
			return
		}
		if !known || len(body) > 65000 {
			return
		}
		checkMessage(t, protected(ExchangeInformational, false, p))
	})
}

// Whatever the peer that has the keys puts inside of SK: no panic, an error
// with a reason, or views that hold what they promise. The text is all that is
// encrypted, padding included.
func FuzzEncryptedInner(f *testing.F) {
	rec := recorded(f)
	f.Add(uint8(ExchangeIKEAuth), false, uint8(TypeIDi), append(bytes.Clone(rec.ReqInner), 0))
	f.Add(uint8(ExchangeIKEAuth), true, uint8(TypeIDr), append(bytes.Clone(rec.ReplyInner), 0))
	for _, c := range messages {
		first, b := chainOf(f, c.ps...)
		f.Add(uint8(c.x), c.response, uint8(first), append(b, 0))
	}
	f.Fuzz(func(t *testing.T, x uint8, response bool, first uint8, text []byte) {
		if len(text) > 60000 {
			return
		}
		h := head(Exchange(x), 1, response)
		o, err := Open(testSealer(), sealRaw(h, testSealer(), PayloadType(first), nil, text))
		if err != nil {
			checkError(t, err, true)
			return
		}
		m, err := o.Message()
		if err != nil {
			checkError(t, err, true)
			return
		}
		if !m.Protected {
			t.Fatal("the message is not marked as protected")
		}
		checkViews(t, m)
		checkMessage(t, m)
	})
}

// Whatever sequence of fragments the peer that has the keys sends: no panic,
// memory within the budget, and a message only of fragments of one kind, in
// their order. Each five octets of the script are one fragment: number, total,
// size, message ID, and what to do.
func FuzzReassembler(f *testing.F) {
	f.Add([]byte{1, 2, 10, 0, 0, 2, 2, 10, 0, 0})
	f.Add([]byte{2, 2, 10, 0, 0, 1, 3, 10, 0, 0, 2, 3, 1, 0, 0, 3, 3, 0, 0, 0})
	f.Add([]byte{3, 3, 255, 0, 0, 1, 3, 255, 0, 0, 1, 3, 255, 0, 0, 2, 3, 255, 1, 0, 2, 3, 255, 0, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := Reassembler{Fragments: 20, Octets: 2000}
		for ; len(script) >= 5; script = script[5:] {
			number, total, size := script[0], script[1], int(script[2])
			if script[4] == 255 {
				r.Reset()
			}
			h := head(ExchangeIKEAuth, uint32(script[3]), false)
			o := Opened{
				Encrypted: Encrypted{Header: h, First: PayloadType(number), Fragment: uint16(number), Total: uint16(total)},
				Plain:     bytes.Repeat([]byte{number}, size),
			}
			wanted := r.Wanted(o.Encrypted)
			first, plain, complete, err := r.Add(o)
			if wanted != nil && err == nil {
				t.Fatal("a fragment that was not wanted was taken")
			}
			if err != nil {
				checkError(t, err, false)
			}
			if r.size > r.Octets || len(r.parts) > r.Fragments {
				t.Fatalf("holds %d octets in %d parts", r.size, len(r.parts))
			}
			if !complete {
				continue
			}
			if first != 1 || len(plain) > r.Octets {
				t.Fatalf("first payload %d, %d octets", first, len(plain))
			}
			for i := 1; i < len(plain); i++ {
				if plain[i] < plain[i-1] || plain[i] > total {
					t.Fatalf("the parts are out of order: %x", plain)
				}
			}
		}
	})
}
