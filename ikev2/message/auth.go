package message

// Auth is an Authentication payload (RFC 7296, Section 3.8).
type Auth struct {
	Method AuthMethod
	Data   []byte
}

// Type is TypeAuth.
func (*Auth) Type() PayloadType { return TypeAuth }

// Append appends the body.
func (p *Auth) Append(b []byte) []byte { return append(append(b, byte(p.Method), 0, 0, 0), p.Data...) }

func parseAuth(b []byte) (*Auth, error) {
	if len(b) < 4 {
		return nil, short(TypeAuth, 4, len(b))
	}
	return &Auth{Method: AuthMethod(b[0]), Data: b[4:]}, nil
}
