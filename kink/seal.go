package kink

import (
	"errors"

	"iked/kink/message"
)

// seal writes a message under the session key of a ticket: inner goes into
// KINK_ENCRYPT, nil: there is none; the checksum is over all (RFC 4430, Sections 4
// and 8).
func seal(key SessionKey, h message.Header, outer message.Body, inner *message.Body) ([]byte, error) {
	if inner != nil {
		plain, err := message.AppendInner(nil, *inner)
		if err != nil {
			return nil, err
		}
		if outer.Encrypt, err = key.Encrypt(UsageEncrypt, plain); err != nil {
			return nil, err
		}
	}
	return message.Append(nil, h, outer, func(b []byte) ([]byte, error) { return key.Checksum(UsageChecksum, b) })
}

// Reasons why a message is not authentic.
var (
	errChecksum = errors.New("the checksum is wrong")
	errDecrypt  = errors.New("KINK_ENCRYPT cannot be decrypted")
)

// open checks a message under the session key of a ticket, and gives what
// KINK_ENCRYPT has in it. An error other than errChecksum and errDecrypt is about an
// authentic message that cannot be read.
func open(key SessionKey, m *message.Message) (message.Body, error) {
	if !key.Verify(UsageChecksum, m.Covered(), m.Cksum) {
		return message.Body{}, errChecksum
	}
	if m.Encrypt == nil {
		return message.Body{}, nil
	}
	plain, err := key.Decrypt(UsageEncrypt, m.Encrypt)
	if err != nil {
		return message.Body{}, errDecrypt
	}
	return message.ParseInner(plain)
}
