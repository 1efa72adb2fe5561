package engine

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"iked/ikev2"
	"iked/internal/isakmp"
)

// Payload and notification numbers that the cookie check reads (RFC 7296,
// Sections 3.2 and 3.10.1).
const (
	payloadNonce  = 40
	payloadNotify = 41
	notifyCookie  = 16390
)

// cookieJar makes and checks the cookies of RFC 7296, Section 2.6, for all
// strangers.
type cookieJar struct {
	mu  sync.Mutex
	jar *ikev2.Cookies
}

func newCookieJar() *cookieJar {
	return &cookieJar{jar: ikev2.NewCookies(time.Now(), 0, func(b []byte) { rand.Read(b) })}
}

// check looks at the cookie of an IKE_SA_INIT request. ok: it is good. Else
// answer is the response that demands one, or err says why there is none.
func (c *cookieJar) check(now time.Time, d ikev2.Datagram, h isakmp.Header) (answer []byte, ok bool, err error) {
	cookie, nonce, err := cookieAndNonce(d.Data, h)
	if err != nil {
		return nil, false, err
	}
	spii, from := ikev2.SPI(h.SPIi.Uint64()), d.Remote.Addr()
	c.mu.Lock()
	defer c.mu.Unlock()
	if cookie != nil && c.jar.Check(now, cookie, from, spii, nonce) {
		return nil, true, nil
	}
	return ikev2.CookieReply(h, c.jar.Make(now, from, spii, nonce)), false, nil
}

// cookieAndNonce finds the two in a request, without keeping anything.
//
//	HDR(A,0), N(COOKIE), SAi1, KEi, Ni
func cookieAndNonce(data []byte, h isakmp.Header) (cookie, nonce []byte, err error) {
	chain := isakmp.NewChain(h.NextPayload, data[isakmp.HeaderLen:], isakmp.Limits{})
	for p, ok := chain.Next(); ok; p, ok = chain.Next() {
		switch p.Type {
		case payloadNotify:
			// Protocol ID, SPI Size, Notify Message Type, SPI, data.
			if b := p.Body; cookie == nil && len(b) >= 4 && b[1] == 0 && binary.BigEndian.Uint16(b[2:]) == notifyCookie {
				cookie = b[4:]
			}
		case payloadNonce:
			nonce = p.Body
		}
	}
	if err := chain.Err(); err != nil {
		return nil, nil, err
	}
	// RFC 7296, Section 3.9: 16 to 256 octets.
	if len(nonce) < 16 || len(nonce) > 256 {
		return nil, nil, errors.New("no nonce of 16 to 256 octets")
	}
	return cookie, nonce, nil
}
