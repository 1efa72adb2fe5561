package ikev1

import (
	"time"

	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// overLimit tells whether a child has as many SAs as it may.
func (sa *SA) overLimit(cfg *keyex.ChildConfig) bool {
	return offer.Full(cfg, sa.children, func(c *keyex.Child) bool { return book(c).successor != nil })
}

// tooMany is the failure of one SA too many.
func (sa *SA) tooMany(now time.Time, cfg *keyex.ChildConfig) *trace.Failure {
	sentence, advice := offer.FullWords(cfg)
	return sa.failure(now, trace.StageChild, sentence, advice)
}
