package esp

// Drop says why a packet is not carried. The zero value means that it is. No
// drop allocates: names are counter labels.
type Drop uint8

// Drops of the inbound side, of the outbound side, and of both.
const (
	Pass Drop = iota
	// Dummy is no fault: next header 59 (RFC 4303, Section 2.6), counted and
	// dropped after authentication and the update of the window.
	Dummy
	ESPTooShort
	ESPBadLength
	ReplayOld
	ReplayDuplicate
	ReplayInvalid
	BadICV
	BadPadding
	BadNextHeader
	InnerInvalid
	InnerVersion
	InnerECN
	SelectorMismatch
	InnerFragment
	OuterFragment
	SequenceOverflow
	LifetimeOver
	TooBig
	NoRoom
	OutboundInvalid
	numDrops
)

var dropNames = [numDrops]string{
	"pass", "dummy", "esp_too_short", "esp_bad_length", "replay_old", "replay_duplicate",
	"replay_invalid", "bad_icv", "bad_padding", "bad_next_header", "inner_invalid",
	"inner_version", "inner_ecn", "selector_mismatch", "inner_fragment", "outer_fragment",
	"sequence_overflow", "lifetime_over", "too_big", "no_room", "outbound_invalid",
}

// String is the counter label of the drop.
func (d Drop) String() string {
	if d < numDrops {
		return dropNames[d]
	}
	return "unknown"
}

// NumDrops is the number of drop values, for arrays of counters.
const NumDrops = int(numDrops)
