package esp

// Drop says why a packet is not carried. The zero value means that it is. No
// drop allocates: names are counter labels.
type Drop uint8

// Drops. Pass is none.
const (
	Pass Drop = iota
	// Dummy is no fault: next header 59 (RFC 4303, Section 2.6), counted and
	// dropped after authentication and the update of the window.
	Dummy
	ESPTooShort      // no room for header, IV, trailer and ICV
	ESPBadLength     // ciphertext is not a multiple of the block
	ReplayOld        // behind the window
	ReplayDuplicate  // seen
	ReplayInvalid    // number 0 or before the first packet
	BadICV           // not authentic
	BadPadding       // longer than the packet, or not 1, 2, 3 ...
	BadNextHeader    // none that the mode of the SA allows
	InnerInvalid     // no valid IP packet inside
	InnerVersion     // its version is not what the next header says
	InnerECN         // RFC 6040: congestion signalled to a Not-ECT packet
	SelectorMismatch // outside of the selectors of the SA (RFC 4301, Section 5.2)
	InnerFragment    // a non-initial fragment on an SA with port selectors
	OuterFragment    // a fragment reached ESP (RFC 4303, Section 3.4.1); for callers
	SequenceOverflow // no sequence number left
	LifetimeOver     // a hard limit is reached
	TooBig           // no datagram holds the result
	NoRoom           // the buffer has not Headroom and Tailroom
	OutboundInvalid  // no valid IP packet to protect
	BadPseudoHeader  // IPv4 options of BEET mode that no right sender makes
	AHTooShort       // no room for the header that the SA prescribes
	AHBadLength      // the header is not as long as the ICV of the SA makes it
	BadOption        // an option or extension header of which AH does not know what changes on the way
	UnknownCPI       // compressed by an agreement that there is not (RFC 3173, Section 3.3)
	BadCompression   // what was compressed cannot be restored
	InflatedTooBig   // it would become longer than a packet may be
	numDrops
)

var dropNames = [numDrops]string{
	"pass", "dummy", "esp_too_short", "esp_bad_length", "replay_old", "replay_duplicate",
	"replay_invalid", "bad_icv", "bad_padding", "bad_next_header", "inner_invalid",
	"inner_version", "inner_ecn", "selector_mismatch", "inner_fragment", "outer_fragment",
	"sequence_overflow", "lifetime_over", "too_big", "no_room", "outbound_invalid", "bad_pseudo_header",
	"ah_too_short", "ah_bad_length", "bad_option",
	"unknown_cpi", "bad_compression", "inflated_too_big",
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
