package der

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// all has a field of every kind.
type all struct {
	I     int64
	J     *int64
	T     time.Time
	U     time.Duration
	S     string
	O     []byte
	F     uint32
	N     Name
	List  []int64
	Ints  []int32
	Elems [][]byte
	Raw   []byte
}

func (a all) append() ([]byte, error) {
	return AppendApplication(nil, 5, func(w Writer) {
		w.Int(0, a.I)
		if a.J != nil {
			w.Int(1, *a.J)
		}
		w.Time(2, a.T)
		w.Micro(3, time.Unix(0, int64(a.U)))
		w.Text(4, a.S)
		w.Octets(5, a.O)
		w.Flags(6, a.F)
		w.Name(7, a.N)
		w.List(8, len(a.List), func(i int, w Writer) { w.Int(0, a.List[i]) })
		w.Integers(9, a.Ints)
		w.Elements(10, a.Elems...)
		w.Raw(11, a.Raw)
	})
}

func parse(b []byte) (a all, ok bool) {
	r := Application(b, 5)
	a.I = r.Int(0)
	if j, there := r.OptInt(1); there {
		a.J = &j
	}
	a.T = r.Time(2)
	a.U = r.Micro(3)
	a.S = r.Text(4)
	a.O = r.Octets(5)
	a.F = r.Flags(6)
	a.N = r.Name(7)
	r.List(8, func(r *Reader) {
		a.List = append(a.List, r.Int(0))
		r.End()
	})
	a.Ints = r.Integers(9)
	a.Elems = r.Elements(10)
	a.Raw = r.Raw(11)
	return a, r.End()
}

func draw(t *rapid.T) all {
	a := all{
		I: rapid.Int64().Draw(t, "int"), T: time.Unix(rapid.Int64Range(0, 1<<37).Draw(t, "time"), 0).UTC(), U: time.Duration(rapid.Int64Range(0, 999999).Draw(t, "micro")) * time.Microsecond,
		S: rapid.StringN(0, 20, maxText).Draw(t, "text"), O: rapid.SliceOf(rapid.Byte()).Draw(t, "octets"), F: rapid.Uint32().Draw(t, "flags"),
		N: Name{rapid.Int32().Draw(t, "type"), rapid.SliceOfN(rapid.StringN(0, 5, 20), 0, maxParts).Draw(t, "parts")}, Raw: []byte{4, 1, 9},
	}
	if rapid.Bool().Draw(t, "optional") {
		j := rapid.Int64().Draw(t, "second")
		a.J = &j
	}
	for range rapid.IntRange(0, 3).Draw(t, "elements") {
		a.List, a.Ints, a.Elems = append(a.List, 7), append(a.Ints, -7), append(a.Elems, []byte{5, 0})
	}
	return a
}

// Every kind of field is read as it was written; no prefix is, and no field can be
// left out.
func TestFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := draw(t)
		b, err := a.append()
		if err != nil {
			t.Fatal(err)
		}
		got, ok := parse(b)
		if !ok {
			t.Fatalf("%x is not read", b)
		}
		if len(a.O) == 0 {
			a.O, got.O = nil, nil
		}
		if len(a.N.Parts) == 0 {
			a.N.Parts = nil
		}
		if d := cmp.Diff(a, got); d != "" {
			t.Fatal(d)
		}
		n := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if got, ok := parse(b[:n]); ok {
			t.Fatalf("the first %d octets are read: %+v", n, got)
		}
		if _, ok := parse(append(bytes.Clone(b), 0)); ok {
			t.Fatal("an octet behind it is not seen")
		}
	})
}

// What is not DER or not the type that is due is refused, and everything that is read
// from then on is nothing.
func TestRefused(t *testing.T) {
	seq := func(fields string) []byte { return append([]byte{0x30, byte(len(fields))}, fields...) }
	for _, c := range []struct {
		name, fields string
		read         func(*Reader)
	}{
		{"an integer with zeros before it", "\xa0\x04\x02\x02\x00\x01", func(r *Reader) { r.Int(0) }},
		{"an integer of nine octets", "\xa0\x0b\x02\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00", func(r *Reader) { r.Int(0) }},
		{"an integer of 33 bits", "\xa0\x07\x02\x05\x01\x00\x00\x00\x00", func(r *Reader) { r.Int32(0) }},
		{"another type", "\xa0\x03\x04\x01\x01", func(r *Reader) { r.Int(0) }},
		{"two values", "\xa0\x06\x02\x01\x01\x02\x01\x01", func(r *Reader) { r.Int(0) }},
		{"another field", "\xa1\x03\x02\x01\x01", func(r *Reader) { r.Int(0) }},
		{"a field that is not there", "", func(r *Reader) { r.Int(0) }},
		{"a length of two octets where one does", "\xa0\x81\x03\x02\x01\x01", func(r *Reader) { r.Int(0) }},
		{"a length without end", "\xa0\x80\x02\x01\x01\x00\x00", func(r *Reader) { r.Int(0) }},
		{"a version that is another", "\xa0\x03\x02\x01\x04", func(r *Reader) { r.Version(0, 5) }},
		{"a million microseconds", "\xa0\x05\x02\x03\x0f\x42\x40", func(r *Reader) { r.Micro(0) }},
		{"microseconds below zero", "\xa0\x03\x02\x01\xff", func(r *Reader) { r.OptMicro(0) }},
		{"a time that is none", "\xa0\x11\x18\x0f20261326000000Z", func(r *Reader) { r.Time(0) }},
		{"a time with a fraction", "\xa0\x13\x18\x1120261126000000.5Z", func(r *Reader) { r.OptTime(0) }},
		{"flags without an octet", "\xa0\x02\x03\x00", func(r *Reader) { r.Flags(0) }},
		{"flags with eight unused bits", "\xa0\x04\x03\x02\x08\x00", func(r *Reader) { r.Flags(0) }},
		{"a name of another string", "\xa0\x0e\x30\x0c\xa0\x03\x02\x01\x01\xa1\x05\x30\x03\x0c\x01A", func(r *Reader) { r.OptName(0) }},
		{"a name with 17 components", "\xa0\x2d\x30\x2b\xa0\x03\x02\x01\x01\xa1\x24\x30\x22" + strings.Repeat("\x1b\x00", 17), func(r *Reader) { r.Name(0) }},
		{"a list of something else", "\xa0\x04\x30\x02\x05\x00", func(r *Reader) { r.List(0, func(*Reader) {}) }},
		{"integers of something else", "\xa0\x04\x30\x02\x05\x00", func(r *Reader) { r.Integers(0) }},
		{"elements that are cut", "\xa0\x04\x30\x02\x05\x01", func(r *Reader) { r.Elements(0) }},
		{"two elements where one is due", "\xa0\x04\x05\x00\x05\x00", func(r *Reader) { r.Raw(0) }},
		{"an application that is another", "\xa0\x04\x62\x02\x30\x00", func(r *Reader) { r.Application(0, 1) }},
		{"what is left over", "\xa0\x03\x02\x01\x01\x05\x00", func(r *Reader) { r.Int(0) }},
	} {
		r := Sequence(seq(c.fields))
		c.read(r)
		if r.End() {
			t.Errorf("%s is read", c.name)
		}
		if r.Int(1) != 0 || r.Text(2) != "" || r.Raw(3) != nil || r.OK() {
			t.Errorf("%s: something is read behind it", c.name)
		}
	}
	for _, b := range [][]byte{nil, {0x30}, {0x31, 0}, {0x30, 0, 0}, {0x30, 0x84, 0xff, 0xff, 0xff, 0xff}} {
		if Sequence(b).OK() {
			t.Errorf("%x is a SEQUENCE", b)
		}
	}
	long := strings.Repeat("x", maxText+1)
	b, err := AppendSequence(nil, func(w Writer) { w.Text(0, long) })
	if r := Sequence(b); err != nil || r.Text(0) != "" || r.OK() {
		t.Error("a long text is read")
	}
	many := make([]int32, maxList+1)
	b, err = AppendSequence(nil, func(w Writer) { w.Integers(0, many) })
	if r := Sequence(b); err != nil || r.Integers(0) != nil || r.OK() {
		t.Error("a long list of integers is read")
	}
	b, err = AppendList(nil, maxList+1, func(int, Writer) {})
	n := 0
	r := Sequence(b)
	if r.Each(func(*Reader) { n++ }); err != nil || r.OK() || n > maxList {
		t.Errorf("a long list is read, %d elements", n)
	}
}

// Flags of fewer and of more than 32 bits are read by their place (RFC 4120, Section
// 5.2.8).
func TestFlags(t *testing.T) {
	for s, want := range map[string]uint32{"\x00\x80": 1 << 31, "\x07\x80": 1 << 31, "\x00\x00\x00\x00\x01\xff": 1, "\x00": 0} {
		if r := Sequence([]byte("\x30" + string(rune(len(s)+4)) + "\xa0" + string(rune(len(s)+2)) + "\x03" + string(rune(len(s))) + s)); r.Flags(0) != want || !r.End() {
			t.Errorf("%x", s)
		}
	}
}

// The first element is found before padding, which is not looked at.
func TestFirst(t *testing.T) {
	for b, want := range map[string]string{"\x05\x00\x00\x00": "\x05\x00", "\x30\x02\x05\x00": "\x30\x02\x05\x00", "": "", "\x05": "", "\x30\x05\x00": ""} {
		if got := First([]byte(b)); string(got) != want {
			t.Errorf("%x: %x", b, got)
		}
	}
	if !IsApplication([]byte{0x65, 0}, 5) || IsApplication([]byte{0x65, 0, 0}, 5) || IsApplication([]byte{0x65}, 5) || IsApplication([]byte{0x66, 0}, 5) || IsApplication(nil, 5) {
		t.Error("IsApplication")
	}
	if !(Name{1, []string{"a", "b"}}).Equal(Name{2, []string{"a", "b"}}) || (Name{1, []string{"a"}}).Equal(Name{1, []string{"a", "b"}}) || (Name{1, []string{"a", "c"}}).Equal(Name{1, []string{"a", "b"}}) {
		t.Error("Equal")
	}
}

// Any octets are read or refused.
func FuzzFields(f *testing.F) {
	for _, a := range []all{{T: time.Unix(1e9, 0), N: Name{1, []string{"a"}}, Raw: []byte{5, 0}}, {I: -1, J: new(int64), T: time.Unix(1e9, 0), S: "x", O: []byte{1}, F: 1, N: Name{3, []string{"a", "b"}}, List: []int64{1}, Ints: []int32{1, 2}, Elems: [][]byte{{5, 0}}, Raw: []byte{4, 0}}} {
		b, err := a.append()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := parse(b)
		if !ok {
			return
		}
		out, err := a.append()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := parse(out); !ok {
			t.Fatalf("%x became %x", b, out)
		}
	})
}
