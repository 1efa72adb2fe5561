// Package der reads and writes the ASN.1 of Kerberos (RFC 4120, Section 5): DER,
// SEQUENCEs whose fields have explicit context tags, in order. Nesting is that of
// the reader's calls, so a message cannot make it deeper.
package der

import (
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Caps on what one message may have, beyond its size.
const (
	maxParts = 16   // components of a PrincipalName
	maxList  = 256  // elements of a SEQUENCE OF
	maxText  = 1024 // octets of a KerberosString
)

// Name is a PrincipalName (RFC 4120, Section 5.2.2).
type Name struct {
	Type  int32
	Parts []string
}

// Equal ignores the type (RFC 4120, Section 6.2).
func (n Name) Equal(o Name) bool {
	if len(n.Parts) != len(o.Parts) {
		return false
	}
	for i := range n.Parts {
		if n.Parts[i] != o.Parts[i] {
			return false
		}
	}
	return true
}

// Reader reads the fields of one SEQUENCE. A field that is not as it must be makes
// it, and the readers around it, not OK; then all values are zero.
type Reader struct {
	s   cryptobyte.String
	bad *bool
}

// OK tells that everything so far was as it must be.
func (r *Reader) OK() bool { return !*r.bad }

// End tells that everything was as it must be and nothing is left.
func (r *Reader) End() bool {
	if !r.s.Empty() {
		*r.bad = true
	}
	return r.OK()
}

func (r *Reader) fail() {
	*r.bad = true
	r.s = nil
}

func application(tag int) asn1.Tag { return asn1.Tag(tag).Constructed() | 0x40 }

func context(tag int) asn1.Tag { return asn1.Tag(tag).Constructed().ContextSpecific() }

// Application opens b, which must be nothing but [APPLICATION tag] SEQUENCE.
func Application(b []byte, tag int) *Reader {
	r := &Reader{bad: new(bool)}
	in := cryptobyte.String(b)
	var app cryptobyte.String
	if !in.ReadASN1(&app, application(tag)) || !in.Empty() || !app.ReadASN1(&r.s, asn1.SEQUENCE) || !app.Empty() {
		r.fail()
	}
	return r
}

// IsApplication tells whether b begins with that tag and is one whole element.
func IsApplication(b []byte, tag int) bool {
	in := cryptobyte.String(b)
	return in.SkipASN1(application(tag)) && in.Empty()
}

// Sequence opens b, which must be nothing but a SEQUENCE.
func Sequence(b []byte) *Reader {
	r := &Reader{bad: new(bool)}
	in := cryptobyte.String(b)
	if !in.ReadASN1(&r.s, asn1.SEQUENCE) || !in.Empty() {
		r.fail()
	}
	return r
}

// First is the first element of b, without what follows it: decryption leaves the
// padding of block ciphers (RFC 3961, Section 5.3). Nil when there is none.
func First(b []byte) []byte {
	in := cryptobyte.String(b)
	var el cryptobyte.String
	var tag asn1.Tag
	if !in.ReadAnyASN1Element(&el, &tag) {
		return nil
	}
	return el
}

// field enters the field with a tag, and tells whether it is there.
func (r *Reader) field(tag int, optional bool) (cryptobyte.String, bool) {
	var out cryptobyte.String
	var there bool
	if !r.OK() || !r.s.ReadOptionalASN1(&out, &there, context(tag)) || !there && !optional {
		r.fail()
		return nil, false
	}
	return out, there
}

// value reads the one value of a field.
func (r *Reader) value(tag int, optional bool, t asn1.Tag) ([]byte, bool) {
	f, there := r.field(tag, optional)
	if !there {
		return nil, false
	}
	var v cryptobyte.String
	if !f.ReadASN1(&v, t) || !f.Empty() {
		r.fail()
		return nil, false
	}
	return v, true
}

// Int is an INTEGER of at most 64 bits.
func (r *Reader) Int(tag int) int64 {
	v, _ := r.int(tag, false)
	return v
}

// OptInt is an optional INTEGER.
func (r *Reader) OptInt(tag int) (int64, bool) { return r.int(tag, true) }

func (r *Reader) int(tag int, optional bool) (v int64, there bool) {
	f, there := r.field(tag, optional)
	if there && (!f.ReadASN1Integer(&v) || !f.Empty()) {
		r.fail()
		return 0, false
	}
	return v, there
}

// Int32 is an Int32 (RFC 4120, Section 5.2.4).
func (r *Reader) Int32(tag int) int32 {
	v := r.Int(tag)
	if v != int64(int32(v)) {
		r.fail()
		return 0
	}
	return int32(v)
}

// Version is an INTEGER that has one value only.
func (r *Reader) Version(tag int, want int64) {
	if r.Int(tag) != want {
		r.fail()
	}
}

// Time is a KerberosTime.
func (r *Reader) Time(tag int) time.Time {
	t, _ := r.time(tag, false)
	return t
}

// OptTime is an optional KerberosTime.
func (r *Reader) OptTime(tag int) (time.Time, bool) { return r.time(tag, true) }

func (r *Reader) time(tag int, optional bool) (time.Time, bool) {
	f, there := r.field(tag, optional)
	if !there {
		return time.Time{}, false
	}
	var t time.Time
	if !f.ReadASN1GeneralizedTime(&t) || !f.Empty() {
		r.fail()
		return time.Time{}, false
	}
	return t.UTC(), true
}

// Micro is a Microseconds.
func (r *Reader) Micro(tag int) time.Duration {
	v, _ := r.micro(tag, false)
	return v
}

// OptMicro is an optional Microseconds.
func (r *Reader) OptMicro(tag int) (time.Duration, bool) { return r.micro(tag, true) }

func (r *Reader) micro(tag int, optional bool) (time.Duration, bool) {
	v, there := r.int(tag, optional)
	if v < 0 || v > 999999 {
		r.fail()
		return 0, false
	}
	return time.Duration(v) * time.Microsecond, there
}

// Text is a KerberosString.
func (r *Reader) Text(tag int) string { return r.text(tag, false) }

// OptText is an optional KerberosString.
func (r *Reader) OptText(tag int) string { return r.text(tag, true) }

func (r *Reader) text(tag int, optional bool) string {
	v, _ := r.value(tag, optional, asn1.GeneralString)
	if len(v) > maxText {
		r.fail()
		return ""
	}
	return string(v)
}

// Octets is an OCTET STRING. It shares the memory of the input.
func (r *Reader) Octets(tag int) []byte {
	v, _ := r.value(tag, false, asn1.OCTET_STRING)
	return v
}

// OptOctets is an optional OCTET STRING.
func (r *Reader) OptOctets(tag int) ([]byte, bool) { return r.value(tag, true, asn1.OCTET_STRING) }

// Flags are KerberosFlags: bit 0 is the highest. What is beyond 32 bits is left out.
func (r *Reader) Flags(tag int) uint32 {
	v, _ := r.value(tag, false, asn1.BIT_STRING)
	if len(v) < 1 || v[0] > 7 || len(v) > 64 || len(v) == 1 && v[0] != 0 {
		r.fail()
		return 0
	}
	var flags uint32
	for i := range 4 {
		flags <<= 8
		if i+1 < len(v) {
			flags |= uint32(v[i+1])
		}
	}
	return flags
}

// Name is a PrincipalName. It may have no components: Heimdal's KDC has no name for the
// server in errors.
func (r *Reader) Name(tag int) Name {
	n, _ := r.name(tag, false)
	return n
}

// OptName is an optional PrincipalName.
func (r *Reader) OptName(tag int) (Name, bool) { return r.name(tag, true) }

func (r *Reader) name(tag int, optional bool) (Name, bool) {
	in, there := r.OptSequence(tag)
	if !there {
		if !optional {
			r.fail()
		}
		return Name{}, false
	}
	var n Name
	n.Type = in.Int32(0)
	list, _ := in.value(1, false, asn1.SEQUENCE)
	for s := cryptobyte.String(list); !s.Empty(); {
		var v cryptobyte.String
		if !s.ReadASN1(&v, asn1.GeneralString) || len(v) > maxText || len(n.Parts) == maxParts {
			in.fail()
			return Name{}, false
		}
		n.Parts = append(n.Parts, string(v))
	}
	if !in.End() {
		return Name{}, false
	}
	return n, true
}

// Sequence enters a field that is a SEQUENCE.
func (r *Reader) Sequence(tag int) *Reader {
	in, there := r.OptSequence(tag)
	if !there {
		r.fail()
	}
	return in
}

// OptSequence enters an optional field that is a SEQUENCE. The reader is never nil.
func (r *Reader) OptSequence(tag int) (*Reader, bool) {
	v, there := r.value(tag, true, asn1.SEQUENCE)
	return &Reader{v, r.bad}, there
}

// Application enters a field that is [APPLICATION app] SEQUENCE; raw is that
// element as it stands.
func (r *Reader) Application(tag, app int) (in *Reader, raw []byte) {
	f, _ := r.field(tag, false)
	raw = f
	in = &Reader{bad: r.bad}
	var a cryptobyte.String
	if !r.OK() || !f.ReadASN1(&a, application(app)) || !f.Empty() || !a.ReadASN1(&in.s, asn1.SEQUENCE) || !a.Empty() {
		r.fail()
		return in, nil
	}
	return in, raw
}

// Raw is the one element of a field, as it stands.
func (r *Reader) Raw(tag int) []byte {
	v, there := r.OptRaw(tag)
	if !there {
		r.fail()
	}
	return v
}

// OptRaw is the one element of an optional field.
func (r *Reader) OptRaw(tag int) ([]byte, bool) {
	f, there := r.field(tag, true)
	if !there {
		return nil, false
	}
	raw := f
	var t asn1.Tag
	var el cryptobyte.String
	if !f.ReadAnyASN1Element(&el, &t) || !f.Empty() {
		r.fail()
		return nil, false
	}
	return raw, true
}

// List enters the elements of an optional SEQUENCE OF SEQUENCE one by one.
func (r *Reader) List(tag int, each func(*Reader)) {
	in, _ := r.OptSequence(tag)
	in.Each(each)
}

// Each enters the elements of this SEQUENCE OF SEQUENCE one by one.
func (r *Reader) Each(each func(*Reader)) {
	for n := 0; r.OK() && !r.s.Empty(); n++ {
		el := Reader{bad: r.bad}
		if n == maxList || !r.s.ReadASN1(&el.s, asn1.SEQUENCE) {
			r.fail()
			return
		}
		each(&el)
	}
}

// Integers are the elements of a SEQUENCE OF INTEGER.
func (r *Reader) Integers(tag int) []int32 {
	v, _ := r.value(tag, false, asn1.SEQUENCE)
	var out []int32
	for s := cryptobyte.String(v); !s.Empty(); {
		var i int64
		if len(out) == maxList || !s.ReadASN1Integer(&i) || i != int64(int32(i)) {
			r.fail()
			return nil
		}
		out = append(out, int32(i))
	}
	return out
}

// Elements are the elements of an optional SEQUENCE OF, as they stand.
func (r *Reader) Elements(tag int) [][]byte {
	v, _ := r.value(tag, true, asn1.SEQUENCE)
	var out [][]byte
	for s := cryptobyte.String(v); !s.Empty(); {
		var el cryptobyte.String
		var t asn1.Tag
		if len(out) == maxList || !s.ReadAnyASN1Element(&el, &t) {
			r.fail()
			return nil
		}
		out = append(out, el)
	}
	return out
}
