package ikev2

import "iked/internal/keyex"

// flow is the steps of one exchange of an SA.
type flow struct {
	keyex.Flow
	sa *SA
}

func newFlow(sa *SA) *flow { return &flow{Flow: keyex.Flow{Queue: &sa.Queue}, sa: sa} }
