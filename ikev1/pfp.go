package ikev1

import (
	"fmt"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
)

// overLimit tells whether a child has as many SAs as it may.
func (sa *SA) overLimit(cfg *keyex.ChildConfig) bool {
	n := 0
	for _, c := range sa.children {
		if c.Config == cfg && book(c).successor == nil {
			n++
		}
	}
	return cfg.Limit > 0 && n >= cfg.Limit
}

// tooMany is the failure of one SA too many.
func (sa *SA) tooMany(now time.Time, cfg *keyex.ChildConfig) *trace.Failure {
	return sa.failure(now, trace.StageChild, fmt.Sprintf("%s has %d CHILD_SAs, which is its pfp_limit", cfg.Name, cfg.Limit), "raise pfp_limit, or flag fewer selectors in pfp")
}
