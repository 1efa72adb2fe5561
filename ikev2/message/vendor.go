package message

// VendorID is a Vendor ID payload (RFC 7296, Section 3.12).
type VendorID struct {
	Data []byte
}

// Type is TypeVendor.
func (*VendorID) Type() PayloadType { return TypeVendor }

// Append appends the body.
func (p *VendorID) Append(b []byte) []byte { return append(b, p.Data...) }
