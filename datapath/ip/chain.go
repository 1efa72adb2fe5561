package ip

// NextField is the offset of the field that names the header at octet at, at most
// Info.HeaderLen, of a packet that Parse found valid: the protocol of IPv4, the
// next header of the IPv6 header or of the extension header before.
func NextField(b []byte, at int) int {
	if b[0]>>4 == 4 {
		return 9
	}
	field, next := 6, IPv6HeaderLen
	for kind := b[6]; next < at; kind = b[field] {
		field = next
		if next += FragHeaderLen; kind != ProtoFragment {
			next += int(b[field+1]) * 8
		}
	}
	return field
}
