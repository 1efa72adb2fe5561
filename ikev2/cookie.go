package ikev2

import (
	"crypto/hmac"
	"crypto/sha256"
	"net/netip"
	"time"

	"iked/ikev2/message"
	"iked/internal/secret"
)

// Cookies makes and checks the cookies of a stateless responder (RFC 7296,
// Section 2.6):
//
//	Cookie = <version of the secret> | HMAC-SHA-256(secret, Ni | IPi | SPIi)
//
// The secret changes every Lifetime; the one before stays good for one more.
type Cookies struct {
	lifetime time.Duration
	random   func([]byte)
	version  uint8
	secrets  [2]secret.Bytes // current, previous
	since    time.Time
}

// CookieLen is the length of every cookie in octets.
const CookieLen = 1 + 16

// NewCookies makes a maker; random fills with octets fit for keys. A lifetime of
// 0 is one minute.
func NewCookies(now time.Time, lifetime time.Duration, random func([]byte)) *Cookies {
	if lifetime == 0 {
		lifetime = time.Minute
	}
	c := &Cookies{lifetime: lifetime, random: random, since: now}
	c.secrets[0] = c.fresh()
	return c
}

func (c *Cookies) fresh() secret.Bytes {
	b := make([]byte, 32)
	c.random(b)
	return secret.New(b)
}

// rotate changes the secret when it is time.
func (c *Cookies) rotate(now time.Time) {
	age := now.Sub(c.since)
	if age < c.lifetime {
		return
	}
	c.secrets[1].Destroy()
	c.secrets[1] = c.secrets[0]
	if age >= 2*c.lifetime {
		// Nobody used the one before for a whole lifetime.
		c.secrets[1].Destroy()
		c.secrets[1] = secret.Bytes{}
	}
	c.secrets[0] = c.fresh()
	c.version++
	c.since = now
}

// Make is the cookie for an IKE_SA_INIT request.
func (c *Cookies) Make(now time.Time, from netip.Addr, spii SPI, ni []byte) []byte {
	c.rotate(now)
	return cookie(c.version, c.secrets[0], from, spii, ni)
}

// Check tells whether a cookie is ours and for this request.
func (c *Cookies) Check(now time.Time, got []byte, from netip.Addr, spii SPI, ni []byte) bool {
	c.rotate(now)
	if len(got) != CookieLen {
		return false
	}
	i := c.version - got[0]
	if i > 1 || c.secrets[i].Len() == 0 {
		return false
	}
	return hmac.Equal(got, cookie(got[0], c.secrets[i], from, spii, ni))
}

func cookie(version uint8, key secret.Bytes, from netip.Addr, spii SPI, ni []byte) []byte {
	h := hmac.New(sha256.New, key.Reveal())
	h.Write(ni)
	a := from.Unmap().As16()
	h.Write(a[:])
	var s [8]byte
	for i := range s {
		s[i] = byte(spii >> (56 - 8*i))
	}
	h.Write(s[:])
	return h.Sum([]byte{version})[:CookieLen]
}

// CookieReply is the datagram that asks the sender of an IKE_SA_INIT request for
// a cookie: no state, the responder's SPI is zero.
func CookieReply(request message.Header, cookie []byte) []byte {
	return statelessReply(request, message.NewNotify(message.Cookie, cookie))
}

// VersionReply answers a request of a higher major version (RFC 7296, Section
// 2.5).
func VersionReply(request message.Header) []byte {
	return statelessReply(request, message.NewNotify(message.InvalidMajorVersion, nil))
}

// InvalidSPIReply answers a request for an IKE SA that does not exist (RFC 7296,
// Section 1.5). It is not protected, so its receiver takes it as a hint.
func InvalidSPIReply(request message.Header) []byte {
	return statelessReply(request, message.NewNotify(message.InvalidIKESPI, nil))
}

func statelessReply(request message.Header, n *message.Notify) []byte {
	h := message.Header{SPIi: request.SPIi, SPIr: request.SPIr, Exchange: request.Exchange, MessageID: request.MessageID, Flags: message.FlagResponse}
	if request.Flags&message.FlagInitiator == 0 {
		h.Flags |= message.FlagInitiator
	}
	b, err := (&message.Message{Header: h, Payloads: []message.Payload{n}}).Append(nil)
	if err != nil {
		return nil
	}
	return b
}
