package message

import "testing"

// RFC 7296, Sections 2.5 and 3.1. CVE-2013-4564, CVE-2015-3204: short
// datagrams, every major version, every minor version, every exchange type and
// flag go through the header check without harm.
func TestCheckHeader(t *testing.T) {
	good := head(ExchangeInformational, 1, false)
	good.Version, good.Length = Version, 28
	for v := range 256 {
		for _, flags := range []uint8{0, FlagInitiator, FlagResponse, 0xff} {
			h := good
			h.Version, h.Flags = uint8(v), flags
			_, err := CheckHeader(h.Append(nil))
			switch major := v >> 4; {
			case major == 2 && err != nil:
				// Minor versions and reserved flags are ignored.
				t.Errorf("version %#02x, flags %#02x: %v", v, flags, err)
			case major > 2 && flags&FlagResponse == 0:
				wantError(t, err, NotifyPeer, InvalidMajorVersion, ReasonVersion)
			case major != 2:
				// A response is never answered, a lower version is another
				// protocol's.
				wantError(t, err, Drop, NoNotify, ReasonVersion)
			}
		}
	}
	for x := range 256 {
		h := good
		h.Exchange = uint8(x)
		if _, err := CheckHeader(h.Append(nil)); err != nil {
			t.Errorf("exchange %d: %v", x, err)
		}
	}
	h := good
	h.SPIi = SPI{}
	_, err := CheckHeader(h.Append(nil))
	wantError(t, err, Drop, NoNotify, ReasonZeroSPI)
}

// The look at a stranger's request allocates nothing, finds the cookie wherever
// it stands, and refuses what cannot be a first request.
func TestPeekIKESAInit(t *testing.T) {
	rec := recorded(t)
	m, err := Parse(rec.Messages[0])
	if err != nil {
		t.Fatal(err)
	}
	cookie := NewNotify(Cookie, []byte("abc"))
	for _, ps := range [][]Payload{append([]Payload{cookie}, m.Payloads...), append(m.Payloads[:len(m.Payloads):len(m.Payloads)], cookie)} {
		b, err := (&Message{Header: m.Header, Payloads: ps}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := PeekIKESAInit(b)
		if err != nil || string(p.Cookie) != "abc" {
			t.Errorf("cookie %q, %v", p.Cookie, err)
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = PeekIKESAInit(b) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
	for name, change := range map[string]func(h *Header){
		"response":       func(h *Header) { h.Flags |= FlagResponse },
		"no initiator":   func(h *Header) { h.Flags = 0 },
		"message ID":     func(h *Header) { h.MessageID = 1 },
		"responder SPI":  func(h *Header) { h.SPIr[7] = 1 },
		"other exchange": func(h *Header) { h.Exchange = ExchangeIKEAuth },
	} {
		x := &Message{Header: m.Header, Payloads: m.Payloads}
		change(&x.Header)
		b, _ := x.Append(nil)
		if _, err := PeekIKESAInit(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := range m.Payloads {
		ps := append(m.Payloads[:i:i], m.Payloads[i+1:]...)
		b, _ := (&Message{Header: m.Header, Payloads: ps}).Append(nil)
		_, err := PeekIKESAInit(b)
		wantError(t, err, Drop, NoNotify, ReasonMissingPayload)
	}
}

// A message that is sealed is found again without allocation.
func TestFindEncryptedAllocatesNothing(t *testing.T) {
	b, err := Seal(head(ExchangeInformational, 3, false), nil, testSealer())
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = FindEncrypted(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
