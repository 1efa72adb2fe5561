package ip

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds b to the running one's complement sum of RFC 1071. Only the last
// piece of a sum may have an odd length.
func Sum(b []byte, sum uint64) uint64 {
	var carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	var last uint64
	for i, c := range b {
		last |= uint64(c) << (56 - 8*i)
	}
	sum, carry = bits.Add64(sum, last, carry)
	sum, carry = bits.Add64(sum, 0, carry)
	return sum + carry
}

// Fold turns a running sum into the checksum field's value.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	s := uint32(sum>>16) + uint32(sum&0xffff)
	s = s>>16 + s&0xffff
	return ^uint16(s>>16 + s)
}

// Checksum is the Internet checksum of b and the running sum before it (RFC
// 1071). Over data that contains a right checksum it is 0.
func Checksum(b []byte, sum uint64) uint16 { return Fold(Sum(b, sum)) }

// Adjust is the checksum after a 16-bit field changed from old to new (RFC
// 1624, equation 3).
func Adjust(checksum, old, new uint16) uint16 {
	s := uint32(^checksum) + uint32(^old) + uint32(new)
	s = s>>16 + s&0xffff
	return ^uint16(s>>16 + s)
}

// PseudoSum is the sum of the pseudo header of a next layer checksum (RFC 793;
// RFC 8200, Section 8.1), for n octets of protocol proto. src and dst are
// addresses as in the packet, 4 or 16 octets.
func PseudoSum(src, dst []byte, proto uint8, n int) uint64 {
	return Sum(dst, Sum(src, uint64(proto)+uint64(n)))
}
