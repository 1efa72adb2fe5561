package message

// Limits of a nonce in octets (RFC 7296, Section 3.9).
const (
	MinNonce = 16
	MaxNonce = 256
)

// Nonce is a Nonce payload, Ni or Nr (RFC 7296, Section 3.9).
type Nonce struct {
	Data []byte // 16 to 256 octets
}

// Type is TypeNonce.
func (*Nonce) Type() PayloadType { return TypeNonce }

// Append appends the body.
func (p *Nonce) Append(b []byte) []byte { return append(b, p.Data...) }

func parseNonce(b []byte) (*Nonce, error) {
	if len(b) < MinNonce || len(b) > MaxNonce {
		return nil, syntax(ReasonPayloadSyntax, "a nonce has %d to %d octets, found %d", MinNonce, MaxNonce, len(b))
	}
	return &Nonce{Data: b}, nil
}
