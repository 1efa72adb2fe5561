package kink

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func allowPrincipals() cmp.Option { return cmp.Comparer(func(a, b Principal) bool { return a == b }) }

func principal(t testing.TB, s string) Principal {
	t.Helper()
	p, err := ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The octets of a KRB-ERROR with the required fields, written out by hand from RFC
// 4120, Section 5.9.1.
func TestKRBErrorGolden(t *testing.T) {
	golden, _ := hex.DecodeString(strings.Join(strings.Fields(`
		7e50 304e
		a003 020105
		a103 02011e
		a411 180f 32303236313132363033303430355a
		a505 0203 0f423f
		a603 020125
		a903 1b01 52
		aa1e 301c a003 020103 a115 3013 1b04 6b696e6b 1b0b 612e6578616d706c652e6f
		`), ""))
	golden[1], golden[3] = byte(len(golden)-2), byte(len(golden)-4)
	want := KRBError{Code: ErrSkew, STime: time.Date(2026, 11, 26, 3, 4, 5, 999999000, time.UTC), Server: principal(t, "kink/a.example.o@R")}
	got, err := ParseKRBError(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, allowPrincipals()); d != "" {
		t.Error(d)
	}
	b, err := want.Append(nil)
	if err != nil || !bytes.Equal(b, golden) {
		t.Errorf("written as\n%x (%v), expected\n%x", b, err, golden)
	}
	// No prefix and nothing behind it is one.
	for n := range golden {
		if _, err := ParseKRBError(golden[:n]); err == nil {
			t.Errorf("the first %d octets are read", n)
		}
	}
	if _, err := ParseKRBError(append(bytes.Clone(golden), 0)); err == nil {
		t.Error("an octet behind it is not seen")
	}
	// Another version, another message, microseconds that are none, a code beyond 32 bits.
	for _, c := range [][2]string{{"a003020105", "a003020104"}, {"a10302011e", "a10302011f"}, {"02030f423f", "02030f4240"}, {"a603020125", "a803020125"}} {
		a, _ := hex.DecodeString(c[0])
		z, _ := hex.DecodeString(c[1])
		bad := bytes.Replace(golden, a, z, 1)
		if bytes.Equal(bad, golden) {
			t.Fatalf("%s is not there", c[0])
		}
		if _, err := ParseKRBError(bad); err == nil {
			t.Errorf("%s is read", c[1])
		}
	}
	if _, err := ParseKRBError(make([]byte, maxKRBError+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too long: %v", err)
	}
	if _, err := (KRBError{Code: 1}).Append(nil); err == nil {
		t.Error("an error without a server is written")
	}
}

// Heimdal 7.8's KDC names no server in an error, and its realm is none.
func TestKRBErrorOfHeimdal(t *testing.T) {
	b, err := hex.DecodeString("7e693067a003020105a10302011ea211180f32303236313132363034303331335aa3050203022fe2a411180f32303236313132363034303331335aa5050203023231a603020107a9151b133c756e737065636966696564207265616c6d3eaa0b3009a003020100a1023000")
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseKRBError(b)
	if err != nil || e.Code != ErrServerUnknown || !e.Server.IsZero() || !e.STime.Equal(time.Date(2026, 11, 26, 4, 3, 13, 143921000, time.UTC)) {
		t.Errorf("%+v %v", e, err)
	}
}

// All fields survive; what a stranger's text could do to a terminal does not.
func TestKRBErrorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Map(rapid.Int64Range(0, 4e15), func(us int64) time.Time { return time.UnixMicro(us).UTC() })
		e := KRBError{
			Code:  rapid.Int32().Draw(t, "code"),
			STime: at.Draw(t, "stime"),
			Text:  rapid.StringOfN(rapid.RuneFrom([]rune("abc äß")), 0, 20, -1).Draw(t, "text"),
		}
		if rapid.Bool().Draw(t, "ctime") {
			e.CTime = at.Draw(t, "at")
		}
		if rapid.Bool().Draw(t, "client") {
			e.Client, _ = NewPrincipal("C", "a", "b", "c")
		}
		if rapid.Bool().Draw(t, "data") {
			e.Data = []byte{1, 2, 3}
		}
		e.Server, _ = NewPrincipal("R", "kink", "x")
		b, err := e.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseKRBError(b[6:])
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, got, allowPrincipals()); d != "" {
			t.Fatal(d)
		}
	})
	s, _ := NewPrincipal("R", "kink", "x")
	b, err := KRBError{Server: s, STime: time.Unix(1, 0), Text: "\x1b[2J\nevil\xff" + strings.Repeat("x", 1000)}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := ParseKRBError(b); err != nil || !strings.HasPrefix(e.Text, "?[2J?evil?x") || len(e.Text) > 256 {
		t.Errorf("text %q (%v)", e.Text, err)
	}
}

// What is read can be written and read again.
func FuzzParseKRBError(f *testing.F) {
	s, _ := NewPrincipal("R", "kink", "x")
	for _, e := range []KRBError{
		{Code: ErrSkew, STime: time.Unix(1e9, 5000), Server: s},
		{Code: 60, STime: time.Unix(1e9, 5000), CTime: time.Unix(2e9, 0), Client: s, Server: s, Text: "no", Data: []byte{1}},
	} {
		b, err := e.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseKRBError(b)
		if err != nil || e.Server.IsZero() || e.STime.Year() > 9999 || e.CTime.Year() > 9999 {
			return
		}
		out, err := e.Append(nil)
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		if _, err := ParseKRBError(out); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
	})
}
