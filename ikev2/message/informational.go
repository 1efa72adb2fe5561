package message

// Informational is a request or a response of INFORMATIONAL (RFC 7296, Section
// 1.4). It may be empty: then it asks for, or gives, a sign of life.
//
//	HDR, SK {[N+,] [D+,] [CP]}
type Informational struct {
	Header    Header
	Response  bool
	Notifies  Notifies
	Deletes   []*Delete
	CP        *CP
	VendorIDs []*VendorID
}

// ParseInformational is the view of an INFORMATIONAL request or response.
func ParseInformational(m *Message) (*Informational, error) {
	if err := expect(m, ExchangeInformational, m.IsResponse()); err != nil {
		return nil, err
	}
	k := &picker{m: m}
	v := &Informational{
		Header: m.Header, Response: m.IsResponse(),
		Notifies: m.Notifies(), Deletes: collect[*Delete](m.Payloads), CP: pick[*CP](k, TypeCP),
		VendorIDs: collect[*VendorID](m.Payloads),
	}
	return finished(v, k)
}
