// Package radius asks RADIUS servers whether a user's password is right (RFC
// 2865), as a client: Access-Request with User-Password, and nothing else of the
// protocol. Message-Authenticator is sent first and demanded of every answer (RFC
// 2869, Section 5.14; RFC 3579, Section 3.2): without it the answer hangs on MD5
// alone, and whoever is on the way can turn a refusal into consent
// (CVE-2024-3596).
package radius

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"iked/internal/secret"
)

// Codes (RFC 2865, Section 4).
const (
	codeRequest   = 1
	codeAccept    = 2
	codeReject    = 3
	codeChallenge = 11
)

// Attributes (RFC 2865, Section 5; RFC 2869, Section 5).
const (
	attrUserName             = 1
	attrUserPassword         = 2
	attrFramedIPAddress      = 8
	attrReplyMessage         = 18
	attrCallingStationID     = 31
	attrNASIdentifier        = 32
	attrNASPortType          = 61
	attrMessageAuthenticator = 80
)

// nasPortVirtual is the NAS-Port-Type of no port at all (RFC 2865, Section 5.41).
const nasPortVirtual = 5

// Sizes in octets (RFC 2865, Sections 3 and 5).
const (
	headerLen   = 20
	maxPacket   = 4096
	maxValue    = 253
	maxPassword = 128
)

// Request is a question about a user.
type Request struct {
	User     string
	Password secret.Bytes
	// NASIdentifier is what this system is called, CallingStation where the user is.
	NASIdentifier, CallingStation string
}

// check refuses what the protocol cannot say.
func (q *Request) check() error {
	switch {
	case q.User == "" || len(q.User) > maxValue:
		return fmt.Errorf("the user name has %d octets, RADIUS takes 1 to %d", len(q.User), maxValue)
	case q.Password.Len() > maxPassword:
		return fmt.Errorf("the password has more than the %d octets that RADIUS takes", maxPassword)
	case len(q.NASIdentifier) == 0 || len(q.NASIdentifier) > maxValue || len(q.CallingStation) > maxValue:
		return fmt.Errorf("NAS-Identifier and Calling-Station-Id have at most %d octets", maxValue)
	}
	return nil
}

// append appends the Access-Request (RFC 2865, Section 4.1); Request was checked.
//
//	 0                   1                   2                   3
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|     Code      |  Identifier   |            Length             |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                  Request Authenticator (16)                   |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Attributes: type (1), length of all (1), value …
func (q *Request) append(b []byte, id uint8, authenticator [16]byte, key secret.Bytes) []byte {
	at := len(b)
	b = append(b, codeRequest, id, 0, 0)
	b = append(b, authenticator[:]...)
	b = appendAttr(b, attrMessageAuthenticator, make([]byte, md5.Size))
	b = appendAttr(b, attrUserName, []byte(q.User))
	b = appendAttr(b, attrUserPassword, hide(q.Password, authenticator, key))
	b = appendAttr(b, attrNASIdentifier, []byte(q.NASIdentifier))
	b = appendAttr(b, attrNASPortType, []byte{0, 0, 0, nasPortVirtual})
	if q.CallingStation != "" {
		b = appendAttr(b, attrCallingStationID, []byte(q.CallingStation))
	}
	binary.BigEndian.PutUint16(b[at+2:], uint16(len(b)-at))
	copy(b[at+headerLen+2:], authenticate(b[at:], key))
	return b
}

func appendAttr(b []byte, kind uint8, value []byte) []byte {
	return append(append(b, kind, uint8(2+len(value))), value...)
}

// hide is the value of User-Password (RFC 2865, Section 5.2): blocks of the
// password, filled up with zeros, each with MD5 over the secret and the block
// before, the first one with the Request Authenticator.
func hide(password secret.Bytes, authenticator [16]byte, key secret.Bytes) []byte {
	p := password.Reveal()
	out := make([]byte, max(16, (len(p)+15)/16*16))
	copy(out, p)
	before := authenticator[:]
	for i := 0; i < len(out); i += 16 {
		h := md5.New()
		h.Write(key.Reveal())
		h.Write(before)
		before = out[i : i+16]
		subtle.XORBytes(before, before, h.Sum(nil))
	}
	return out
}

// authenticate is HMAC-MD5 over a packet whose Message-Authenticator is zero (RFC
// 2869, Section 5.14).
func authenticate(b []byte, key secret.Bytes) []byte {
	m := hmac.New(md5.New, key.Reveal())
	m.Write(b)
	return m.Sum(nil)
}

// Verdict is a server's answer.
type Verdict uint8

// Verdicts. Challenge is a question in return, as one for a one-time password.
const (
	Rejected Verdict = iota
	Accepted
	Challenge
)

// Answer is what a server said. Message is the peer-facing text as it came: it is
// not fit to be shown. Address is the one that the user is to get; invalid: any.
type Answer struct {
	Verdict Verdict
	Message string
	Address netip.Addr
}

var errForged = errors.New("radius: the answer is not authentic")

// parseAnswer reads the answer to a request, which it must prove to come from who
// has the secret (RFC 2865, Section 3; RFC 2869, Section 5.14). b is not changed.
func parseAnswer(b []byte, id uint8, authenticator [16]byte, key secret.Bytes) (Answer, error) {
	if len(b) < headerLen {
		return Answer{}, fmt.Errorf("radius: a packet has at least %d octets, found %d", headerLen, len(b))
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < headerLen || n > maxPacket || n > len(b) {
		return Answer{}, fmt.Errorf("radius: the length says %d octets, %d came", n, len(b))
	}
	// RFC 2865, Section 3: what is behind the length is padding.
	b = append([]byte(nil), b[:n]...)
	if b[1] != id {
		return Answer{}, errors.New("radius: the answer is to another request")
	}
	claimed := [16]byte(b[4:])
	copy(b[4:], authenticator[:])
	// Response Authenticator = MD5(Code | ID | Length | RequestAuth | Attributes | Secret).
	h := md5.New()
	h.Write(b)
	h.Write(key.Reveal())
	ok := subtle.ConstantTimeCompare(h.Sum(nil), claimed[:])
	a := Answer{}
	var mac []byte
	for at := headerLen; at < n; {
		if n-at < 2 || int(b[at+1]) < 2 || int(b[at+1]) > n-at {
			return Answer{}, errors.New("radius: an attribute is cut off")
		}
		v := b[at+2 : at+int(b[at+1])]
		switch b[at] {
		case attrMessageAuthenticator:
			if len(v) != md5.Size || mac != nil {
				return Answer{}, errors.New("radius: Message-Authenticator has 16 octets and stands once")
			}
			mac = v
		case attrReplyMessage:
			a.Message += string(v)
		case attrFramedIPAddress:
			if len(v) != 4 {
				return Answer{}, errors.New("radius: Framed-IP-Address has 4 octets")
			}
			a.Address = netip.AddrFrom4([4]byte(v))
		}
		at += int(b[at+1])
	}
	if mac == nil {
		return Answer{}, errors.New("radius: the answer has no Message-Authenticator, so that it proves nothing (CVE-2024-3596)")
	}
	want := [md5.Size]byte(mac)
	clear(mac)
	ok &= subtle.ConstantTimeCompare(authenticate(b, key), want[:])
	if ok != 1 {
		return Answer{}, errForged
	}
	switch b[0] {
	case codeAccept:
		a.Verdict = Accepted
	case codeReject:
		a.Verdict = Rejected
	case codeChallenge:
		a.Verdict = Challenge
	default:
		return Answer{}, fmt.Errorf("radius: code %d is no answer to an Access-Request", b[0])
	}
	// RFC 2865, Section 5.8: both mean that the address is somebody else's choice.
	if v := a.Address; a.Verdict != Accepted || !v.IsGlobalUnicast() || v == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || v == netip.AddrFrom4([4]byte{255, 255, 255, 254}) {
		a.Address = netip.Addr{}
	}
	return a, nil
}
