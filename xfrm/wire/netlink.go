package wire

import (
	"encoding/binary"
	"iter"
)

// Netlink framing, as in include/uapi/linux/netlink.h.
const (
	nlHeader = 16
	nlError  = 4 + nlHeader

	ErrorType Type = 2 // NLMSG_ERROR, also the acknowledgement
	DoneType  Type = 3 // NLMSG_DONE

	FlagRequest  = 0x1
	FlagMulti    = 0x2
	FlagAck      = 0x4
	FlagDumpIntr = 0x10
	FlagDump     = 0x300
	FlagReplace  = 0x100
	FlagExcl     = 0x200
	FlagCreate   = 0x400

	flagCapped  = 0x100
	flagAckTLVs = 0x200
)

// Header is struct nlmsghdr.
//
//	 0                   1                   2                   3
//	+---------------------------------------------------------------+
//	|                            length                             |
//	+-------------------------------+-------------------------------+
//	|             type              |             flags             |
//	+-------------------------------+-------------------------------+
//	|                        sequence number                        |
//	+---------------------------------------------------------------+
//	|                            port ID                            |
//	+---------------------------------------------------------------+
type Header struct {
	Type  Type
	Flags uint16
	Seq   uint32
	Port  uint32
}

// AppendMessage appends a whole message; m may be nil.
func AppendMessage(b []byte, h Header, m Message) []byte {
	start := len(b)
	b = append32(b, 0)
	b = append16(b, uint16(h.Type))
	b = append16(b, h.Flags)
	b = append32(b, h.Seq)
	b = append32(b, h.Port)
	if m != nil {
		b = m.Append(b)
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return pad(b, align(len(b)-start)-(len(b)-start))
}

// Messages walks the messages of one datagram. Bodies are parts of b. A message
// that does not fit ends the walk with an error.
func Messages(b []byte) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		for len(b) > 0 {
			if len(b) < nlHeader {
				yield(Raw{}, malformed("%d octets, expected a netlink header of %d", len(b), nlHeader))
				return
			}
			r := reader{b: b[:nlHeader]}
			n := r.u32()
			h := Header{Type: Type(r.u16()), Flags: r.u16(), Seq: r.u32(), Port: r.u32()}
			if n < nlHeader || uint64(n) > uint64(len(b)) {
				yield(Raw{}, malformed("a netlink message says it has %d octets, found %d", n, len(b)))
				return
			}
			if !yield(Raw{Header: h, Body: b[nlHeader:n]}, nil) {
				return
			}
			b = b[min(align(int(n)), len(b)):]
		}
	}
}

// Raw is a message whose body was not looked at.
type Raw struct {
	Header
	Body []byte
}

// Ack is NLMSG_ERROR: the answer to one request.
type Ack struct {
	// Errno is 0 for success, else the positive error number.
	Errno int
	// Text is what the kernel says about it, may be empty.
	Text string
}

// ParseAck parses the body of an ErrorType message, or of a DoneType one, which
// ends a dump and has the error number alone.
func ParseAck(h Header, b []byte) (Ack, error) {
	if h.Type == DoneType {
		if len(b) < 4 {
			return Ack{}, nil
		}
		a, err := errno(b)
		if err == nil && h.Flags&flagAckTLVs != 0 {
			a.Text = ackText(b[4:])
		}
		return a, err
	}
	if len(b) < nlError {
		return Ack{}, malformed("acknowledgement of %d octets, expected at least %d", len(b), nlError)
	}
	a, err := errno(b)
	if err != nil || h.Flags&flagAckTLVs == 0 {
		return a, err
	}
	rest := b[nlError:]
	if h.Flags&flagCapped == 0 {
		// The request is echoed as a whole, and the attributes stand behind it.
		n := uint64(binary.NativeEndian.Uint32(b[4:]))
		if n < nlHeader || n-nlHeader > uint64(len(rest)) {
			return a, malformed("acknowledgement echoes %d octets, found %d", n, len(rest)+nlHeader)
		}
		rest = rest[min(align(int(n-nlHeader)), len(rest)):]
	}
	a.Text = ackText(rest)
	return a, nil
}

func errno(b []byte) (Ack, error) {
	e := int32(binary.NativeEndian.Uint32(b))
	if e > 0 || e < -4095 {
		return Ack{}, malformed("error number %d, expected -4095 to 0", e)
	}
	return Ack{Errno: int(-e)}, nil
}

// ackText is NLMSGERR_ATTR_MSG; an attribute that does not fit ends the search.
func ackText(b []byte) string {
	for t, v := range attributes(b) {
		if t == 1 && len(v) > 0 {
			n := 0
			for n < len(v) && n < 256 && v[n] != 0 {
				n++
			}
			return string(v[:n])
		}
	}
	return ""
}

// attributes walks well-formed attributes and stops at the first that is not; rest
// tells the caller that something was left.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&attrTypeMask, b[4:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}
