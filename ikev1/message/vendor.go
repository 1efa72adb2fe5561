package message

// Vendor IDs that change what this side does. An ID of another length may still
// be one of them: some vendors add a version behind.
var (
	VendorNATT        = []byte("\x4a\x13\x1c\x81\x07\x03\x58\x45\x5c\x57\x28\xf2\x0e\x95\x45\x2f") // RFC 3947
	VendorNATTDraft03 = []byte("\x7d\x94\x19\xa6\x53\x10\xca\x6f\x2c\x17\x9d\x92\x15\x52\x9d\x56")
	VendorNATTDraft02 = []byte("\x90\xcb\x80\x91\x3e\xbb\x69\x6e\x08\x63\x81\xb5\xec\x42\x7b\x1f") // of "...-02\n", which peers send
	VendorNATTDraft2B = []byte("\xcd\x60\x46\x43\x35\xdf\x21\xf8\x7c\xfd\xb2\xfc\x68\xb6\xa4\x48")
	VendorDPD         = []byte("\xaf\xca\xd7\x13\x68\xa1\xf1\xc9\x6b\x86\x96\xfc\x77\x57\x01\x00") // RFC 3706; the last two octets are a version
	VendorXAuth       = []byte("\x09\x00\x26\x89\xdf\xd6\xb7\x12")
	VendorFragments   = []byte("\x40\x48\xb7\xd5\x6e\xbc\xe8\x85\x25\xe7\xde\x7f\x00\xd6\xc2\xd3")
	VendorUnity       = []byte("\x12\xf5\xf2\x8c\x45\x71\x68\xa9\x70\x2d\x9f\xe2\x74\xcc\x01\x00") // the last two octets vary
	VendorBEET        = []byte("\xcf\x78\xed\xe2\xd7\x0a\x92\xc4\xb9\xac\x03\x80\xc8\xe1\xa1\xb3") // of this product: EncapBEET
	VendorStrongSwan  = []byte("\x88\x2f\xe5\x6d\x6f\xd2\x0d\xbc\x22\x51\x61\x3b\x2e\xbe\x5b\xeb")
)

// IsVendor tells whether a VID payload is the given one. The octets that vary
// do not count, nor what stands behind.
func IsVendor(data, id []byte) bool {
	n := len(id)
	if string(id) == string(VendorDPD) || string(id) == string(VendorUnity) {
		n -= 2
	}
	return len(data) >= len(id) && string(data[:n]) == string(id[:n])
}
