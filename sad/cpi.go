package sad

import "fmt"

// A Compression Parameter Index names what the receiver of compressed payloads
// expects (RFC 3173, Section 3.3): WellKnownCPI stands for DEFLATE without an
// agreement, MinCPI to MaxCPI are negotiated. Those above are private.
const (
	WellKnownCPI uint16 = 2
	MinCPI       uint16 = 256
	MaxCPI       uint16 = 61439
)

// CheckCPI tells whether a peer may name an association so.
func CheckCPI(cpi uint16) error {
	if cpi != WellKnownCPI && (cpi < MinCPI || cpi > MaxCPI) {
		return fmt.Errorf("CPI %d, expected %d, or %d to %d (RFC 3173, Section 3.3)", cpi, WellKnownCPI, MinCPI, MaxCPI)
	}
	return nil
}
