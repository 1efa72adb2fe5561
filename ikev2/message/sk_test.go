package message

import (
	"bytes"
	"errors"
	"testing"

	"iked/internal/isakmp"
)

// sealRaw is a message with SK (or SKF) that holds exactly text, padding
// included, for what Seal would never write.
func sealRaw(h Header, s Sealer, first PayloadType, before []byte, text []byte) []byte {
	h.Version, h.NextPayload = Version, uint8(TypeSK)
	if len(before) > 0 {
		h.NextPayload = uint8(TypeVendor)
	}
	b := append(h.Append(nil), before...)
	start := len(b)
	b = isakmp.AppendPayloadHeader(b, uint8(first), false)
	hdr := len(b)
	b = append(b, make([]byte, s.IVLen())...)
	b = append(append(b, text...), make([]byte, s.ICVLen())...)
	isakmp.PutPayloadLength(b, start)
	isakmp.PutLength(b, len(b))
	if err := s.Seal(b, hdr); err != nil {
		panic(err)
	}
	return b
}

// RFC 7296, Section 3.14: any amount and content of padding is accepted, a Pad
// Length beyond what is there is INVALID_SYNTAX, as it was authenticated.
func TestPadding(t *testing.T) {
	h := head(ExchangeInformational, 1, false)
	for pad := range 256 {
		text := append(bytes.Repeat([]byte{0xa5}, pad), byte(pad))
		o, err := Open(testSealer(), sealRaw(h, testSealer(), NoPayload, nil, text))
		if err != nil || len(o.Plain) != 0 {
			t.Errorf("%d octets of padding: %x, %v", pad, o.Plain, err)
		}
		if pad > 0 {
			_, err = Open(testSealer(), sealRaw(h, testSealer(), NoPayload, nil, text[1:]))
			wantError(t, err, Fatal, InvalidSyntax, ReasonPadding)
		}
	}
	_, err := Open(testSealer(), sealRaw(h, testSealer(), NoPayload, nil, nil))
	wantError(t, err, Drop, NoNotify, ReasonIntegrity)
}

// The first payload inside is the one that SK's Next Payload names; none with
// octets inside, and one without octets, are faults of the protected chain.
func TestInnerFirstPayload(t *testing.T) {
	h := head(ExchangeInformational, 1, false)
	for _, c := range []struct {
		first  PayloadType
		text   []byte
		reason Reason
	}{
		{NoPayload, []byte{0, 0, 0, 4, 0}, isakmp.TrailingOctets},
		{TypeVendor, []byte{0}, isakmp.TruncatedPayload},
		{TypeVendor, []byte{0, 0, 0, 3, 0}, isakmp.PayloadLength},
		{TypeVendor, []byte{0, 0, 0xff, 0xff, 0}, isakmp.TruncatedPayload},
	} {
		o, err := Open(testSealer(), sealRaw(h, testSealer(), c.first, nil, c.text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = o.Message()
		wantError(t, err, Fatal, InvalidSyntax, c.reason)
	}
}

// Payloads in clear before SK are covered by the ICV and otherwise ignored,
// unless one is critical and not understood.
func TestPayloadsBeforeSK(t *testing.T) {
	h := head(ExchangeInformational, 1, false)
	b := sealRaw(h, testSealer(), NoPayload, []byte{byte(TypeSK), 0, 0, 5, 'v'}, []byte{0})
	if _, err := Open(testSealer(), bytes.Clone(b)); err != nil {
		t.Error(err)
	}
	b[32] ^= 1
	_, err := Open(testSealer(), b)
	wantError(t, err, Drop, NoNotify, ReasonIntegrity)

	b = sealRaw(h, testSealer(), NoPayload, []byte{200, 0, 0, 4, byte(TypeSK), 0x80, 0, 4}, []byte{0})
	_, err = Open(testSealer(), bytes.Clone(b))
	wantError(t, err, NotifyPeer, UnsupportedCriticalPayload, ReasonCritical)
	// Not before it is known to be the peer's.
	b[len(b)-1] ^= 1
	_, err = Open(testSealer(), b)
	wantError(t, err, Drop, NoNotify, ReasonIntegrity)
}

// A cipher that cannot seal makes no message.
func TestSealFailure(t *testing.T) {
	s := failingSealer{testSealer()}
	if _, err := Seal(head(ExchangeInformational, 1, false), nil, s); !errors.Is(err, errFailing) {
		t.Error(err)
	}
	if _, err := SealFragments(head(ExchangeInformational, 1, false), []Payload{&VendorID{Data: make([]byte, 500)}}, s, 200); !errors.Is(err, errFailing) {
		t.Error(err)
	}
}

var errFailing = errors.New("the counter has run out")

type failingSealer struct{ Sealer }

func (failingSealer) Seal([]byte, int) error { return errFailing }
