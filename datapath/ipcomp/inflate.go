package ipcomp

import "math/bits"

// Numbers of RFC 1951, Sections 3.2.5 to 3.2.7.
const (
	endOfBlock = 256
	maxLit     = 286 // literals, end of block and lengths
	maxDist    = 30
	numCodes   = 19 // code length codes
	maxBits    = 15
	// quickBits is the length of the longest code that one look-up decodes.
	quickBits = 9
)

var (
	lengthBase  = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [maxDist]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	distExtra   = [maxDist]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
	codeOrder   = [numCodes]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

// inflater restores whole streams in memory: the output is its own window, and the
// tables are fixed. The package of the standard library allocates tables for each
// block with long codes.
type inflater struct {
	src   []byte
	at    int
	hold  uint32 // bits that were read and not used, the next one lowest
	have  uint   // how many
	dst   []byte
	n     int
	lit   prefix
	dist  prefix
	sizes [maxLit + maxDist]uint8
}

// prefix is a prefix code (RFC 1951, Section 3.2.2).
type prefix struct {
	quick  [1 << quickBits]uint16 // by the next bits: symbol<<4 | length; 0: a longer code, or none
	count  [maxBits + 1]uint16    // codes of each length
	symbol [288]uint16            // in the order of their codes
	used   bool                   // it has a code
}

// build makes the code of the lengths of its symbols; 0: no code. False: they are
// none of a complete code, nor one code of one bit.
func (p *prefix) build(sizes []uint8) bool {
	clear(p.count[:])
	for _, s := range sizes {
		p.count[s]++
	}
	p.count[0] = 0
	clear(p.quick[:])
	var next, offset [maxBits + 2]uint16
	code, longest := uint32(0), 0
	for n := 1; n <= maxBits; n++ {
		code <<= 1
		next[n] = uint16(code)
		code += uint32(p.count[n])
		if code > 1<<n {
			return false
		}
		if p.count[n] > 0 {
			longest = n
		}
		offset[n+1] = offset[n] + p.count[n]
	}
	p.used = longest > 0
	if !p.used {
		return true
	}
	if full := code == 1<<maxBits; !full && !(longest == 1 && p.count[1] == 1) {
		return false
	}
	for sym, s := range sizes {
		if s == 0 {
			continue
		}
		p.symbol[offset[s]] = uint16(sym)
		offset[s]++
		if s <= quickBits {
			// The code comes with its highest bit first.
			c := bits.Reverse16(next[s]) >> (16 - s)
			for i := int(c); i < len(p.quick); i += 1 << s {
				p.quick[i] = uint16(sym)<<4 | uint16(s)
			}
		}
		next[s]++
	}
	return true
}

// fill has up to 16 bits more ready, as far as there are octets.
func (f *inflater) fill() {
	for f.have <= 16 && f.at < len(f.src) {
		f.hold |= uint32(f.src[f.at]) << f.have
		f.at++
		f.have += 8
	}
}

// take is the next n bits, at most 16.
func (f *inflater) take(n uint) (v uint32, ok bool) {
	if f.have < n {
		if f.fill(); f.have < n {
			return 0, false
		}
	}
	v = f.hold & (1<<n - 1)
	f.hold >>= n
	f.have -= n
	return v, true
}

// next decodes a symbol.
func (f *inflater) next(p *prefix) (sym int, ok bool) {
	if f.have < maxBits {
		f.fill()
	}
	if q := p.quick[f.hold&(1<<quickBits-1)]; q != 0 {
		n := uint(q & 15)
		if n > f.have {
			return 0, false
		}
		f.hold >>= n
		f.have -= n
		return int(q >> 4), true
	}
	if !p.used {
		return 0, false
	}
	code, first, index := 0, 0, 0
	for n := uint(1); n <= maxBits && n <= f.have; n++ {
		code |= int(f.hold>>(n-1)) & 1
		count := int(p.count[n])
		if code-first < count {
			f.hold >>= n
			f.have -= n
			return int(p.symbol[index+code-first]), true
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return 0, false
}

// inflate is RFC 1951, Section 3.2.3.
func (f *inflater) inflate(dst, src []byte) (int, error) {
	f.src, f.at, f.hold, f.have, f.dst, f.n = src, 0, 0, 0, dst, 0
	defer func() { f.src, f.dst = nil, nil }()
	for {
		head, ok := f.take(3)
		if !ok {
			return 0, ErrCorrupt
		}
		var err error
		switch head >> 1 {
		case 0:
			err = f.stored()
		case 1:
			err = f.block(fixedLit, fixedDist)
		case 2:
			if !f.dynamic() {
				return 0, ErrCorrupt
			}
			err = f.block(&f.lit, &f.dist)
		default:
			err = ErrCorrupt
		}
		if err != nil {
			return 0, err
		}
		if head&1 == 1 {
			return f.n, nil
		}
	}
}

// stored is Section 3.2.4.
func (f *inflater) stored() error {
	f.hold >>= f.have & 7
	f.have &^= 7
	n, ok1 := f.take(16)
	inverse, ok2 := f.take(16)
	if !ok1 || !ok2 || n != ^inverse&0xffff {
		return ErrCorrupt
	}
	// Whole octets may wait in hold.
	f.at -= int(f.have / 8)
	f.hold, f.have = 0, 0
	if int(n) > len(f.src)-f.at {
		return ErrCorrupt
	}
	if int(n) > len(f.dst)-f.n {
		return ErrTooLong
	}
	f.n += copy(f.dst[f.n:], f.src[f.at:f.at+int(n)])
	f.at += int(n)
	return nil
}

// fixedLit and fixedDist are the codes of Section 3.2.6. A stream may have a block of
// them in every ten bits.
var fixedLit, fixedDist = fixed()

func fixed() (lit, dist *prefix) {
	var sizes [288]uint8
	for i := range sizes {
		switch {
		case i < 144:
			sizes[i] = 8
		case i < 256:
			sizes[i] = 9
		case i < 280:
			sizes[i] = 7
		default:
			sizes[i] = 8
		}
	}
	lit, dist = new(prefix), new(prefix)
	lit.build(sizes[:])
	for i := range 32 {
		sizes[i] = 5
	}
	dist.build(sizes[:32])
	return lit, dist
}

// dynamic reads the codes of a block (Section 3.2.7).
func (f *inflater) dynamic() bool {
	head, ok := f.take(14)
	if !ok {
		return false
	}
	lits, dists, codes := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if lits > maxLit || dists > maxDist {
		return false
	}
	clear(f.sizes[:numCodes])
	for _, at := range codeOrder[:codes] {
		s, ok := f.take(3)
		if !ok {
			return false
		}
		f.sizes[at] = uint8(s)
	}
	if !f.dist.build(f.sizes[:numCodes]) {
		return false
	}
	all := f.sizes[:lits+dists]
	for i := 0; i < len(all); {
		sym, ok := f.next(&f.dist)
		if !ok {
			return false
		}
		if sym < 16 {
			all[i] = uint8(sym)
			i++
			continue
		}
		var again, extra uint
		var s uint8
		switch sym {
		case 16:
			if i == 0 {
				return false
			}
			again, extra, s = 3, 2, all[i-1]
		case 17:
			again, extra = 3, 3
		default:
			again, extra = 11, 7
		}
		more, ok := f.take(extra)
		if !ok || int(again)+int(more) > len(all)-i {
			return false
		}
		for range int(again) + int(more) {
			all[i] = s
			i++
		}
	}
	return f.lit.build(all[:lits]) && f.dist.build(all[lits:])
}

// block is Section 3.2.5.
func (f *inflater) block(lit, dist *prefix) error {
	for {
		sym, ok := f.next(lit)
		switch {
		case !ok || sym >= maxLit:
			return ErrCorrupt
		case sym == endOfBlock:
			return nil
		case sym < endOfBlock:
			if f.n == len(f.dst) {
				return ErrTooLong
			}
			f.dst[f.n] = byte(sym)
			f.n++
			continue
		}
		extra, ok := f.take(uint(lengthExtra[sym-257]))
		if !ok {
			return ErrCorrupt
		}
		length := int(lengthBase[sym-257]) + int(extra)
		sym, ok = f.next(dist)
		if !ok || sym >= maxDist {
			return ErrCorrupt
		}
		if extra, ok = f.take(uint(distExtra[sym])); !ok {
			return ErrCorrupt
		}
		back := int(distBase[sym]) + int(extra)
		if back > f.n {
			return ErrCorrupt
		}
		if length > len(f.dst)-f.n {
			return ErrTooLong
		}
		// What is copied may be what is being written.
		for from := f.n - back; length > 0; {
			n := copy(f.dst[f.n:f.n+length], f.dst[from:f.n])
			f.n += n
			length -= n
		}
	}
}
