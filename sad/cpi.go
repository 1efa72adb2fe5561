package sad

import "fmt"

// A Compression Parameter Index names what the receiver of compressed payloads
// expects (RFC 3173, Section 3.3): MinCPI to MaxCPI are negotiated. Those above are
// private, and those up to 63 stand for an algorithm, DEFLATE being 2.
const (
	MinCPI uint16 = 256
	MaxCPI uint16 = 61439
)

// CheckCPI tells whether a peer may name an association so. A peer may negotiate the
// number of its algorithm, but all its SAs then have the same, and the kernel has one
// association for a number and a destination: with the second SA, which every rekeying
// brings, there would be none. So no such number is agreed on.
func CheckCPI(cpi uint16) error {
	if cpi < MinCPI || cpi > MaxCPI {
		return fmt.Errorf("CPI %d, expected %d to %d (RFC 3173, Section 3.3)", cpi, MinCPI, MaxCPI)
	}
	return nil
}
