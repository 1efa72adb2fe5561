package engine

import (
	"crypto/rand"
	"sync"
	"time"

	"iked/ikev2"
	ikemsg "iked/ikev2/message"
	"iked/internal/isakmp"
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
	peek, err := ikemsg.PeekIKESAInit(d.Data)
	if err != nil {
		return nil, false, err
	}
	spii, from := ikev2.SPI(h.SPIi.Uint64()), d.Remote.Addr()
	c.mu.Lock()
	defer c.mu.Unlock()
	if peek.Cookie != nil && c.jar.Check(now, peek.Cookie, from, spii, peek.Nonce) {
		return nil, true, nil
	}
	return ikev2.CookieReply(h, c.jar.Make(now, from, spii, peek.Nonce)), false, nil
}
