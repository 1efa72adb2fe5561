package keyex

// VersionKINK stands for KINK where other numbers are versions of IKE: RFC 4430 has a
// version octet of 0x10.
const VersionKINK uint8 = 0x10

// KINK is what only a connection of KINK has.
type KINK struct {
	// Racoon2 is for racoon2's kinkd: its pseudo-random function, and no identities as
	// selectors, which it ignores.
	Racoon2 bool
	// UserToUser asks the peer for its ticket-granting ticket at once, where it has no
	// key of its own (RFC 4430, Section 3.1); and gives the own one to peers.
	UserToUser bool
}
