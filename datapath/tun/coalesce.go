package tun

import (
	"bytes"
	"encoding/binary"

	"iked/datapath/ip"
)

// TCP flags.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpCWR = 0x80
)

const (
	maxGroups = 8   // flows that are joined at the same time
	maxJoined = 128 // packets in one frame
	maxLength = 65535
)

// Coalescer joins packets of one flow that follow each other into frames that
// the kernel takes as one. Packets of a flow keep their order. It keeps the
// packets it is given until Flush and changes their headers. It does not
// allocate once it has grown. It is for one goroutine.
type Coalescer struct {
	q      Queue
	groups [maxGroups]group
	n      int
	hdr    [HeaderLen]byte
	pieces [][]byte
	// Err is told of frames that could not be written; n is the number of packets.
	Err func(n int, err error)
}

// group is one flow's packets so far.
type group struct {
	head    []byte // first packet
	info    ip.Info
	hdr     int // length of its headers
	size    int // payload of each packet but the last
	total   int
	nextSeq uint32
	nextID  uint16
	tail    [][]byte // payloads of the others
	psh     bool
	checked bool // the head's checksum is right
	full    bool // nothing may follow
}

// NewCoalescer makes a coalescer that writes to q.
func NewCoalescer(q Queue) *Coalescer { return &Coalescer{q: q, Err: func(int, error) {}} }

// Add takes a packet, which ip.Parse described in info.
func (c *Coalescer) Add(pkt []byte, info *ip.Info) {
	hdr, kind := joinable(pkt, info)
	if kind == cannot {
		c.write(pkt)
		return
	}
	var g *group
	for i := range c.n {
		if x := &c.groups[i]; x.info.Proto == info.Proto && x.info.SrcPort == info.SrcPort && x.info.DstPort == info.DstPort &&
			x.info.Src == info.Src && x.info.Dst == info.Dst {
			g = x
			break
		}
	}
	if g == nil {
		if c.n == maxGroups {
			c.Flush()
		}
		g = &c.groups[c.n]
		c.n++
	} else {
		if kind == joins && g.join(pkt, info, hdr) {
			return
		}
		// Not its successor: what came before goes first.
		c.flush(g)
	}
	g.start(pkt, info, hdr, kind)
}

const (
	cannot = iota // never joined, and no order to keep
	alone         // must keep its place in the flow
	joins
)

// joinable tells whether a packet may be joined with others, and the length of
// its headers.
func joinable(pkt []byte, info *ip.Info) (hdr, kind int) {
	plain := ip.IPv4HeaderLen
	if info.Version == 6 {
		plain = ip.IPv6HeaderLen
	}
	if info.Fragmented || !info.HasPorts {
		return 0, cannot
	}
	l := pkt[info.HeaderLen:info.TotalLen]
	switch info.Proto {
	case ip.ProtoTCP:
		if len(l) < 20 {
			return 0, cannot
		}
		n := int(l[12]>>4) * 4
		if n < 20 || n >= len(l) || info.HeaderLen != plain || l[13]&^tcpPSH != tcpACK {
			return 0, alone
		}
		return info.HeaderLen + n, joins
	case ip.ProtoUDP:
		// Without a checksum it could not be made again.
		if len(l) <= 8 || info.HeaderLen != plain || int(binary.BigEndian.Uint16(l[4:])) != len(l) || l[6]|l[7] == 0 {
			return 0, alone
		}
		return info.HeaderLen + 8, joins
	}
	return 0, cannot
}

func (g *group) start(pkt []byte, info *ip.Info, hdr, kind int) {
	g.head, g.info, g.hdr = pkt[:info.TotalLen], *info, hdr
	g.tail, g.checked, g.full = g.tail[:0], false, kind != joins
	if kind != joins {
		return
	}
	g.size, g.total = info.TotalLen-hdr, info.TotalLen
	g.nextID = uint16(info.FragID)
	if info.Version == 4 {
		g.nextID = binary.BigEndian.Uint16(pkt[4:])
	}
	g.nextID++
	if info.Proto == ip.ProtoTCP {
		l := pkt[info.HeaderLen:]
		g.nextSeq = binary.BigEndian.Uint32(l[4:]) + uint32(g.size)
		g.psh = l[13]&tcpPSH != 0
		g.full = g.psh
	}
}

// join appends a packet if it continues the group.
func (g *group) join(pkt []byte, info *ip.Info, hdr int) bool {
	pkt = pkt[:info.TotalLen]
	n := len(pkt) - hdr
	if g.full || hdr != g.hdr || n > g.size || g.total+n > maxLength || len(g.tail)+1 >= maxJoined ||
		info.TOS != g.info.TOS || info.TTL != g.info.TTL || info.DF != g.info.DF || info.FlowLabel != g.info.FlowLabel {
		return false
	}
	v6 := info.Version == 6
	if !v6 && !info.DF && binary.BigEndian.Uint16(pkt[4:]) != g.nextID {
		return false
	}
	at := info.HeaderLen
	if info.Proto == ip.ProtoTCP {
		l, h := pkt[at:hdr], g.head[at:g.hdr]
		// Same acknowledgment, window and options; the next sequence number.
		if binary.BigEndian.Uint32(l[4:]) != g.nextSeq || !bytes.Equal(l[8:12], h[8:12]) ||
			!bytes.Equal(l[14:16], h[14:16]) || !bytes.Equal(l[20:], h[20:]) {
			return false
		}
	}
	// The kernel makes the checksums anew, so a wrong one must not be joined.
	if !g.checked {
		if checksum(g.head, at, v6, info.Proto) != 0 {
			g.full = true
			return false
		}
		g.checked = true
	}
	if checksum(pkt, at, v6, info.Proto) != 0 {
		return false
	}
	g.tail = append(g.tail, pkt[hdr:])
	g.total += n
	g.nextID++
	g.full = n < g.size
	if info.Proto == ip.ProtoTCP {
		g.nextSeq += uint32(n)
		if pkt[at+13]&tcpPSH != 0 {
			g.psh, g.full = true, true
		}
	}
	return true
}

// Flush writes everything.
func (c *Coalescer) Flush() {
	for i := range c.n {
		c.flush(&c.groups[i])
	}
	c.n = 0
}

// flush writes one group as one frame.
func (c *Coalescer) flush(g *group) {
	if len(g.tail) == 0 {
		if g.head != nil {
			c.write(g.head)
		}
		g.head = nil
		return
	}
	v6 := g.info.Version == 6
	at := g.info.HeaderLen
	h := Header{Flags: flagNeedsCsum, HdrLen: uint16(g.hdr), GSOSize: uint16(g.size), CsumStart: uint16(at)}
	l := g.head[at:]
	if v6 {
		binary.BigEndian.PutUint16(g.head[4:], uint16(g.total-ip.IPv6HeaderLen))
	} else {
		binary.BigEndian.PutUint16(g.head[2:], uint16(g.total))
		g.head[10], g.head[11] = 0, 0
		binary.BigEndian.PutUint16(g.head[10:], ip.Checksum(g.head[:at], 0))
	}
	sum := ^ip.Fold(pseudo(g.head, v6, g.info.Proto, g.total-at))
	if g.info.Proto == ip.ProtoTCP {
		h.GSOType, h.CsumOffset = gsoTCPv4, 16
		if v6 {
			h.GSOType = gsoTCPv6
		}
		if g.psh {
			l[13] |= tcpPSH
		}
		binary.BigEndian.PutUint16(l[16:], sum)
	} else {
		h.GSOType, h.CsumOffset = gsoUDPL4, 6
		binary.BigEndian.PutUint16(l[4:], uint16(g.total-at))
		binary.BigEndian.PutUint16(l[6:], sum)
	}
	h.Put(c.hdr[:])
	c.pieces = append(c.pieces[:0], c.hdr[:], g.head)
	c.pieces = append(c.pieces, g.tail...)
	if err := c.q.Write(c.pieces); err != nil {
		c.Err(1+len(g.tail), err)
	}
	g.head = nil
	g.tail = g.tail[:0]
}

// write writes one packet by itself.
func (c *Coalescer) write(pkt []byte) {
	clear(c.hdr[:])
	c.pieces = append(c.pieces[:0], c.hdr[:], pkt)
	if err := c.q.Write(c.pieces); err != nil {
		c.Err(1, err)
	}
}
