package message

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"iked/internal/vectors"

	"golang.org/x/crypto/chacha20poly1305"
)

// aeadSealer is a combined-mode cipher with a salt and an IV of 8 octets that
// counts (RFC 5282, Section 4; RFC 7634, Section 2).
type aeadSealer struct {
	c     cipher.AEAD
	salt  [4]byte
	count uint64
	block int
}

func newChaCha(key, salt []byte, firstIV uint64) *aeadSealer {
	c, err := chacha20poly1305.New(key)
	if err != nil {
		panic(err)
	}
	return &aeadSealer{c: c, salt: [4]byte(salt), count: firstIV, block: 1}
}

func (s *aeadSealer) IVLen() int  { return 8 }
func (s *aeadSealer) ICVLen() int { return s.c.Overhead() }
func (s *aeadSealer) Block() int  { return s.block }

func (s *aeadSealer) nonce(iv []byte) []byte { return append(s.salt[:len(s.salt):len(s.salt)], iv...) }

func (s *aeadSealer) Seal(b []byte, hdr int) error {
	binary.BigEndian.PutUint64(b[hdr:], s.count)
	s.count++
	text := b[hdr+8 : len(b)-s.ICVLen()]
	s.c.Seal(text[:0], s.nonce(b[hdr:hdr+8]), text, b[:hdr])
	return nil
}

func (s *aeadSealer) Open(b []byte, hdr int) ([]byte, error) {
	return s.c.Open(b[hdr+8:hdr+8], s.nonce(b[hdr:hdr+8]), b[hdr+8:], b[:hdr])
}

// cbcSealer is AES-CBC with HMAC-SHA1-96. The IV comes from iv, one per
// message, so that messages can be reproduced.
type cbcSealer struct {
	b    cipher.Block
	auth []byte
	iv   [16]byte
}

func (s *cbcSealer) IVLen() int  { return 16 }
func (s *cbcSealer) ICVLen() int { return 12 }
func (s *cbcSealer) Block() int  { return 16 }

func (s *cbcSealer) icv(b []byte) []byte {
	m := hmac.New(sha1.New, s.auth)
	m.Write(b)
	return m.Sum(nil)[:12]
}

func (s *cbcSealer) Seal(b []byte, hdr int) error {
	copy(b[hdr:], s.iv[:])
	end := len(b) - 12
	text := b[hdr+16 : end]
	cipher.NewCBCEncrypter(s.b, s.iv[:]).CryptBlocks(text, text)
	copy(b[end:], s.icv(b[:end]))
	return nil
}

func (s *cbcSealer) Open(b []byte, hdr int) ([]byte, error) {
	end := len(b) - 12
	if !hmac.Equal(s.icv(b[:end]), b[end:]) {
		return nil, errors.New("the ICV is wrong")
	}
	text := b[hdr+16 : end]
	if len(text)%16 != 0 {
		return nil, errors.New("half a block")
	}
	cipher.NewCBCDecrypter(s.b, b[hdr:hdr+16]).CryptBlocks(text, text)
	return text, nil
}

func newCBC(encr, auth, iv []byte) *cbcSealer {
	b, err := aes.NewCipher(encr)
	if err != nil {
		panic(err)
	}
	s := &cbcSealer{b: b, auth: auth}
	copy(s.iv[:], iv)
	return s
}

// testSealer is a cipher with a fixed key.
func testSealer() *aeadSealer { return newChaCha(make([]byte, 32), make([]byte, 4), 1) }

type handshake struct {
	Messages   []vectors.Hex
	Ni, Nr     vectors.Hex
	SKai       vectors.Hex `json:"sk_ai"`
	SKar       vectors.Hex `json:"sk_ar"`
	SKei       vectors.Hex `json:"sk_ei"`
	SKer       vectors.Hex `json:"sk_er"`
	AuthI      vectors.Hex `json:"auth_i"`
	AuthR      vectors.Hex `json:"auth_r"`
	ReqInner   vectors.Hex `json:"ike_auth_req_inner"`
	ReqFirst   uint8       `json:"ike_auth_req_first_payload"`
	ReplyInner vectors.Hex `json:"ike_auth_resp_inner"`
	ReplyFirst uint8       `json:"ike_auth_resp_first_payload"`
}

func recorded(t testing.TB) (h handshake) {
	t.Helper()
	load(t, "testdata/recorded_handshake.json", &h)
	return h
}

func load(t testing.TB, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(file, err)
	}
}

// wantError checks action, notify and reason of an error.
func wantError(t testing.TB, err error, a Action, n NotifyType, r Reason) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("got %v, want %v %v %s", err, a, n, r)
		return
	}
	if e.Action != a || e.Notify != n || e.Reason != r {
		t.Errorf("got %v %v %s (%v), want %v %v %s", e.Action, e.Notify, e.Reason, err, a, n, r)
	}
}

func reasonOf(err error) Reason {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Reason
}

// head is a header of an exchange between a and b.
func head(x Exchange, id uint32, response bool) Header {
	h := Header{SPIi: SPI{1, 2, 3, 4, 5, 6, 7, 8}, SPIr: SPI{8, 7, 6, 5, 4, 3, 2, 1}, Exchange: x, Flags: FlagInitiator, MessageID: id}
	if response {
		h.Flags = FlagResponse
	}
	if x == ExchangeIKESAInit && !response {
		h.SPIr = SPI{}
	}
	return h
}

// protected is a message as ParseInner gives it.
func protected(x Exchange, response bool, ps ...Payload) *Message {
	return &Message{Header: head(x, 1, response), Payloads: ps, Protected: true}
}

// rawPayload is any payload type with any body, for what the package itself
// would never write.
type rawPayload struct {
	t    PayloadType
	body []byte
}

func (p rawPayload) Type() PayloadType      { return p.t }
func (p rawPayload) Append(b []byte) []byte { return append(b, p.body...) }

// chainOf is the chain of payloads and the type of the first.
func chainOf(t testing.TB, ps ...Payload) (PayloadType, []byte) {
	t.Helper()
	b, err := AppendPayloads(nil, ps)
	if err != nil {
		t.Fatal(err)
	}
	return firstType(ps), b
}
