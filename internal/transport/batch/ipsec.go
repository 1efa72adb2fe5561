package batch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What the kernel's headers say and package unix does not.
const (
	udpEncapESPinUDP = 2 // UDP_ENCAP_ESPINUDP (RFC 3948)
	// struct xfrm_userpolicy_info: the selector's family, the direction, the action.
	userPolicyLen = 168
	offFamily     = 40
	offDir        = 160
	dirIn, dirOut = 0, 1
)

// BypassIPsec exempts a socket from the kernel's IPsec policies in both
// directions: the packets of a key exchange must pass where the policies demand
// that nothing does. family is AF_INET or AF_INET6. A kernel without IPsec policies
// has nothing to be exempt from, which is no error.
func BypassIPsec(fd, family int) error {
	level, opt := unix.IPPROTO_IP, unix.IP_XFRM_POLICY
	if family == unix.AF_INET6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY
	}
	for _, dir := range []byte{dirIn, dirOut} {
		// All else zero: the action is to let pass, the selector has everything.
		var p [userPolicyLen]byte
		binary.NativeEndian.PutUint16(p[offFamily:], uint16(family))
		p[offDir] = dir
		err := unix.SetsockoptString(fd, level, opt, string(p[:]))
		if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("exempt the socket from IPsec policies: %w", err)
		}
	}
	return nil
}

// encapESP has the kernel open ESP that comes to the socket in UDP (RFC 3948); IKE
// with its marker still comes through, and keepalives end there.
func encapESP(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_ENCAP, udpEncapESPinUDP); err != nil {
		return fmt.Errorf("UDP encapsulation of ESP: %w", err)
	}
	return nil
}
