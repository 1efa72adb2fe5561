package message

import (
	"encoding/binary"
	"fmt"

	"iked/internal/isakmp"
)

// Sealer protects one direction of an IKE SA. It works in place on
//
//	b = [hdr octets of associated data][IV][text][ICV]
//
// where text is the plaintext before Seal and after Open, the ciphertext
// otherwise. Algorithms without AEAD compute the ICV over everything before it
// (RFC 7296, Section 3.14), AEAD ones authenticate the hdr octets and the
// ciphertext (RFC 5282, Section 5.1).
type Sealer interface {
	// IVLen is the length of the IV in octets.
	IVLen() int
	// ICVLen is the length of the ICV in octets.
	ICVLen() int
	// Block is what the length of the text must be a multiple of when it is
	// sealed, in octets; 1 or 0: of nothing.
	Block() int
	// Seal chooses an IV that was not used with the key, writes it into b, and
	// fills in ciphertext and ICV.
	Seal(b []byte, hdr int) error
	// Open verifies the ICV in constant time, decrypts, and returns the text,
	// which aliases b. With an error b is of no use.
	Open(b []byte, hdr int) ([]byte, error)
}

// fragmentHeaderLen are the Fragment Number and Total Fragments of SKF.
const fragmentHeaderLen = 4

// Encrypted says where the Encrypted (SK) or Encrypted Fragment (SKF) payload
// of a message is. Nothing of it is authenticated yet.
//
//	+-------------------------------+-------------------------------+
//	| Next Payload  |C|  RESERVED   |         Payload Length        |
//	|        Fragment Number        |        Total Fragments        | SKF only
//	~                     Initialization Vector                     ~
//	~                    Encrypted IKE Payloads                     ~
//	~              Padding (0-255)  |  Pad Length   |               ~
//	~                    Integrity Checksum Data                    ~
//	+-------------------------------+-------------------------------+
type Encrypted struct {
	Header   Header
	First    PayloadType // first payload inside; with SKF only in fragment 1
	Fragment uint16      // 1 to Total; 0 with SK
	Total    uint16      // 0 with SK

	iv       int         // offset of the IV: the length of the associated data
	critical PayloadType // a payload in clear that is critical and not understood
}

// IsFragment reports whether the payload is an SKF.
func (e Encrypted) IsFragment() bool { return e.Total != 0 }

// FindEncrypted walks the outer chain of a datagram (without non-ESP marker) to
// its Encrypted payload, without allocation for a good message. All errors but
// that of CheckHeader are Drop.
func FindEncrypted(b []byte) (Encrypted, error) {
	h, err := CheckHeader(b)
	e := Encrypted{Header: h}
	if err != nil {
		return e, err
	}
	// RFC 7296, Section 1.2: IKE_SA_INIT has no key to encrypt with, and RFC
	// 7383, Section 2.3, no fragments.
	if h.Exchange == ExchangeIKESAInit {
		return e, drop(ReasonEncryptedInside, "IKE_SA_INIT is never encrypted")
	}
	var found isakmp.Payload
	c := isakmp.NewChain(h.NextPayload, b[isakmp.HeaderLen:], chainLimits)
	for raw, ok := c.Next(); ok; raw, ok = c.Next() {
		found = raw
		if raw.Critical && !understood(PayloadType(raw.Type)) && e.critical == NoPayload {
			e.critical = PayloadType(raw.Type)
		}
	}
	if err := c.Err(); err != nil {
		return e, finish(err, false)
	}
	e.First = PayloadType(found.Next)
	e.iv = isakmp.HeaderLen + found.Offset + isakmp.PayloadHeaderLen
	switch PayloadType(found.Type) {
	case TypeSK:
		return e, nil
	case TypeSKF:
	default:
		return e, drop(ReasonNotEncrypted, "%s is encrypted, no SK or SKF payload stands last", ExchangeName(h.Exchange))
	}
	if found.Offset != 0 {
		// RFC 7383, Section 2.5: SKF is the only payload of its message.
		return e, drop(ReasonFragmentMismatch, "SKF stands alone, payloads in clear stand before it")
	}
	if len(found.Body) < fragmentHeaderLen {
		return e, drop(ReasonFragmentNumber, "SKF needs %d octets for its numbers, found %d", fragmentHeaderLen, len(found.Body))
	}
	e.Fragment, e.Total = binary.BigEndian.Uint16(found.Body), binary.BigEndian.Uint16(found.Body[2:])
	e.iv += fragmentHeaderLen
	// RFC 7383, Section 2.6.
	if e.Fragment == 0 || e.Total == 0 || e.Fragment > e.Total {
		return e, drop(ReasonFragmentNumber, "fragment number %d of %d", e.Fragment, e.Total)
	}
	return e, nil
}

func understood(t PayloadType) bool {
	switch t {
	case TypeSK, TypeSKF, TypeSA, TypeKE, TypeIDi, TypeIDr, TypeCert, TypeCertReq, TypeAuth, TypeNonce,
		TypeNotify, TypeDelete, TypeVendor, TypeTSi, TypeTSr, TypeCP, TypeEAP:
		return true
	}
	return false
}

// Opened is an Encrypted payload whose ICV was right.
type Opened struct {
	Encrypted
	// Plain is the chain of payloads inside, without padding, or a fragment of
	// it. It aliases the datagram.
	Plain []byte
}

// Open finds, verifies and decrypts the Encrypted payload of the datagram b, in
// place. Before the ICV is verified every error is Drop; after it a fault in the
// padding is Fatal and a critical payload in clear is UNSUPPORTED_CRITICAL_PAYLOAD.
// What is a fragment goes to a Reassembler, the rest to Opened.Message.
func Open(s Sealer, b []byte) (Opened, error) {
	e, err := FindEncrypted(b)
	if err != nil {
		return Opened{Encrypted: e}, err
	}
	return e.Open(s, b)
}

// Open is Open for a datagram b in which FindEncrypted found e.
func (e Encrypted) Open(s Sealer, b []byte) (Opened, error) {
	o := Opened{Encrypted: e}
	// At least the Pad Length octet is encrypted.
	if least := e.iv + s.IVLen() + 1 + s.ICVLen(); len(b) < least {
		return o, drop(ReasonIntegrity, "IV, text and ICV need a message of %d octets, found %d", least, len(b))
	}
	text, err := s.Open(b, e.iv)
	if err != nil {
		d := drop(ReasonIntegrity, "%v", err)
		d.Err = err
		return o, d
	}
	if e.critical != NoPayload {
		m := Message{Header: e.Header, Protected: true}
		return o, m.critical(e.critical)
	}
	if len(text) == 0 || int(text[len(text)-1]) > len(text)-1 {
		return o, syntax(ReasonPadding, "the padding is longer than the %d octets that were encrypted", len(text))
	}
	n := len(text) - 1 - int(text[len(text)-1])
	o.Plain = text[:n:n]
	return o, nil
}

// Message reads the payloads of an SK payload. It is an error to call it with
// a fragment.
func (o Opened) Message() (*Message, error) {
	if o.IsFragment() {
		return nil, drop(ReasonFragmentMismatch, "fragment %d of %d is not a message", o.Fragment, o.Total)
	}
	return ParseInner(o.Header, o.First, o.Plain)
}

// Seal is the message with header h and the payloads inside SK. NextPayload,
// Version and Length of h are computed.
func Seal(h Header, ps []Payload, s Sealer) ([]byte, error) {
	if h.Exchange == ExchangeIKESAInit {
		return nil, fmt.Errorf("IKE_SA_INIT is never encrypted: use Message.Append")
	}
	chain, err := AppendPayloads(nil, ps)
	if err != nil {
		return nil, err
	}
	return sealChain(h, firstType(ps), chain, s)
}

// sealChain is Seal of payloads in their wire form.
func sealChain(h Header, first PayloadType, chain []byte, s Sealer) ([]byte, error) {
	b := beginSealed(h, TypeSK, first, len(chain), s)
	hdr := len(b)
	return endSealed(append(append(b, make([]byte, s.IVLen())...), chain...), hdr, s)
}

// beginSealed is the message up to the generic header of SK or SKF, with room
// for n octets of plaintext and no more: a response is kept as long as its SA.
func beginSealed(h Header, outer, first PayloadType, n int, s Sealer) []byte {
	h.Version, h.NextPayload = Version, uint8(outer)
	size := isakmp.HeaderLen + isakmp.PayloadHeaderLen + s.IVLen() + n + padding(n, s.Block()) + 1 + s.ICVLen()
	return isakmp.AppendPayloadHeader(h.Append(make([]byte, 0, size)), uint8(first), false)
}

// endSealed pads, sets the lengths and seals. b ends with the plaintext; hdr is
// where the IV starts.
func endSealed(b []byte, hdr int, s Sealer) ([]byte, error) {
	pad := padding(len(b)-hdr-s.IVLen(), s.Block())
	b = append(b, make([]byte, pad)...)
	b = append(b, byte(pad))
	b = append(b, make([]byte, s.ICVLen())...)
	if !isakmp.PutPayloadLength(b, isakmp.HeaderLen) {
		return nil, fmt.Errorf("the encrypted payload has %d octets, it holds at most 65535: send less in the message", len(b)-isakmp.HeaderLen)
	}
	isakmp.PutLength(b, len(b))
	if err := s.Seal(b, hdr); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return b, nil
}

// padding is how many octets make n octets and the Pad Length octet a multiple
// of block.
func padding(n, block int) int {
	if block <= 1 {
		return 0
	}
	return (block - (n+1)%block) % block
}
