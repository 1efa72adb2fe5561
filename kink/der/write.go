package der

import (
	"encoding/binary"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Writer writes the fields of one SEQUENCE.
type Writer struct{ w *cryptobyte.Builder }

// AppendApplication appends [APPLICATION tag] SEQUENCE.
func AppendApplication(b []byte, tag int, fields func(Writer)) ([]byte, error) {
	w := cryptobyte.NewBuilder(b)
	w.AddASN1(application(tag), sequence(fields))
	return w.Bytes()
}

// AppendSequence appends a SEQUENCE.
func AppendSequence(b []byte, fields func(Writer)) ([]byte, error) {
	w := cryptobyte.NewBuilder(b)
	sequence(fields)(w)
	return w.Bytes()
}

func sequence(fields func(Writer)) cryptobyte.BuilderContinuation {
	return func(w *cryptobyte.Builder) {
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) { fields(Writer{w}) })
	}
}

func (w Writer) field(tag int, f cryptobyte.BuilderContinuation) { w.w.AddASN1(context(tag), f) }

// Int writes an INTEGER.
func (w Writer) Int(tag int, v int64) {
	w.field(tag, func(w *cryptobyte.Builder) { w.AddASN1Int64(v) })
}

// Time writes a KerberosTime: whole seconds.
func (w Writer) Time(tag int, t time.Time) {
	w.field(tag, func(w *cryptobyte.Builder) { w.AddASN1GeneralizedTime(t.UTC()) })
}

// OptTime writes a KerberosTime that is not zero.
func (w Writer) OptTime(tag int, t time.Time) {
	if !t.IsZero() {
		w.Time(tag, t)
	}
}

// Micro writes the Microseconds of a time.
func (w Writer) Micro(tag int, t time.Time) { w.Int(tag, int64(t.Nanosecond()/1000)) }

// Text writes a KerberosString.
func (w Writer) Text(tag int, s string) {
	w.field(tag, func(w *cryptobyte.Builder) { generalString(w, s) })
}

func generalString(w *cryptobyte.Builder, s string) {
	w.AddASN1(asn1.GeneralString, func(w *cryptobyte.Builder) { w.AddBytes([]byte(s)) })
}

// Octets writes an OCTET STRING.
func (w Writer) Octets(tag int, b []byte) {
	w.field(tag, func(w *cryptobyte.Builder) { w.AddASN1OctetString(b) })
}

// Flags writes KerberosFlags of 32 bits.
func (w Writer) Flags(tag int, flags uint32) {
	w.field(tag, func(w *cryptobyte.Builder) { w.AddASN1BitString(binary.BigEndian.AppendUint32(nil, flags)) })
}

// Name writes a PrincipalName.
func (w Writer) Name(tag int, n Name) {
	w.Sequence(tag, func(w Writer) {
		w.Int(0, int64(n.Type))
		w.field(1, func(w *cryptobyte.Builder) {
			w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
				for _, p := range n.Parts {
					generalString(w, p)
				}
			})
		})
	})
}

// Sequence writes a field that is a SEQUENCE.
func (w Writer) Sequence(tag int, fields func(Writer)) { w.field(tag, sequence(fields)) }

// Raw writes a field with an element that is there already.
func (w Writer) Raw(tag int, element []byte) {
	w.field(tag, func(w *cryptobyte.Builder) { w.AddBytes(element) })
}

// List writes a SEQUENCE OF SEQUENCE of n elements.
func (w Writer) List(tag, n int, each func(i int, w Writer)) {
	w.field(tag, func(w *cryptobyte.Builder) {
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
			for i := range n {
				sequence(func(w Writer) { each(i, w) })(w)
			}
		})
	})
}

// AppendList appends a SEQUENCE OF SEQUENCE of n elements.
func AppendList(b []byte, n int, each func(i int, w Writer)) ([]byte, error) {
	w := cryptobyte.NewBuilder(b)
	w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
		for i := range n {
			sequence(func(w Writer) { each(i, w) })(w)
		}
	})
	return w.Bytes()
}

// Integers writes a SEQUENCE OF INTEGER.
func (w Writer) Integers(tag int, list []int32) {
	w.field(tag, func(w *cryptobyte.Builder) {
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
			for _, v := range list {
				w.AddASN1Int64(int64(v))
			}
		})
	})
}

// Elements writes a SEQUENCE OF elements that are there already.
func (w Writer) Elements(tag int, elements ...[]byte) {
	w.field(tag, func(w *cryptobyte.Builder) {
		w.AddASN1(asn1.SEQUENCE, func(w *cryptobyte.Builder) {
			for _, e := range elements {
				w.AddBytes(e)
			}
		})
	})
}
