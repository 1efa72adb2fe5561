package ikev1

import (
	"crypto/hmac"
	"time"

	"iked/internal/trace"
)

// transaction takes a Transaction exchange of the peer: Mode Config or XAuth.
// Neither is configured in any connection, so that what the peer wants is said
// and not done.
func (sa *SA) transaction(x *exchange) func(now time.Time, in *incoming) {
	return func(now time.Time, in *incoming) {
		hash, rest, ok := in.AfterHash()
		if !ok || !hmac.Equal(hash, sa.keys.hashOf(idOctets(x.id), rest)) {
			sa.dropped(now, "hash", "the HASH of a Transaction exchange is wrong or missing")
			return
		}
		in.accept()
		sa.used.add(x.id)
		sa.log(now, trace.Control, true, "the peer begins Mode Config or XAuth, which this connection has not; it will wait in vain")
	}
}
