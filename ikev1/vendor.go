package ikev1

import (
	"slices"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/spd"
)

// vendors are the extensions that a peer announced with vendor IDs.
type vendors struct {
	natt      bool // RFC 3947, or a draft
	nattDraft bool // only the drafts 02 and 03: their payload and mode numbers
	dpd       bool // RFC 3706
	fragments bool
	xauth     bool
	unity     bool
	beet      bool // BEET mode by this product's private number
}

// vendorIDs are those that we send in our first message of phase 1. An initiator
// says what it can; a responder answers with what it will use.
func (sa *SA) vendorIDs() []message.Payload {
	ids := [][]byte{message.VendorDPD, message.VendorXAuth}
	if slices.ContainsFunc(sa.cfg.Children, func(c *keyex.ChildConfig) bool { return c.Mode == spd.BEET }) {
		ids = append(ids, message.VendorBEET)
	}
	if sa.announcesUnity() {
		ids = append(ids, message.VendorUnity)
	}
	if sa.cfg.Fragmentation != fragNo {
		ids = append(ids, message.VendorFragments)
	}
	switch {
	case sa.initiator:
		ids = append(ids, message.VendorNATT, message.VendorNATTDraft03, message.VendorNATTDraft02, message.VendorNATTDraft2B)
	case sa.vendors.nattDraft:
		ids = append(ids, message.VendorNATTDraft03, message.VendorNATTDraft02)
	case sa.vendors.natt:
		ids = append(ids, message.VendorNATT)
	}
	var out []message.Payload
	for _, id := range ids {
		out = append(out, &message.Opaque{Kind: message.TypeVendorID, Data: id})
	}
	return out
}

// takeVendors reads the vendor IDs of a message.
func (sa *SA) takeVendors(m *message.Message) {
	rfc := false
	for _, p := range m.Payloads {
		if p.Type() != message.TypeVendorID {
			continue
		}
		id := p.(*message.Opaque).Data
		v := &sa.vendors
		switch {
		case message.IsVendor(id, message.VendorNATT):
			v.natt, rfc = true, true
		case message.IsVendor(id, message.VendorNATTDraft03), message.IsVendor(id, message.VendorNATTDraft02), message.IsVendor(id, message.VendorNATTDraft2B):
			v.natt, v.nattDraft = true, true
		case message.IsVendor(id, message.VendorBEET):
			v.beet = true
		case message.IsVendor(id, message.VendorDPD):
			v.dpd = true
		case message.IsVendor(id, message.VendorFragments):
			v.fragments = true
		case message.IsVendor(id, message.VendorXAuth):
			v.xauth = true
		case message.IsVendor(id, message.VendorUnity):
			v.unity = true
		}
	}
	if rfc {
		sa.vendors.nattDraft = false
	}
}
