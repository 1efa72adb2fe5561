package secret

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A secret is not shown by any verb or encoder, alone, inside a struct, behind a
// pointer, or in an unexported field, where fmt calls no method.
func TestNeverPrints(t *testing.T) {
	s := New([]byte("hunter2"))
	type outer struct {
		Name   string
		Secret Bytes
		hidden Bytes
	}
	o := outer{"x", s, s}
	for _, v := range []any{s, &s, o, &o, []outer{o}, []*outer{&o}, map[string]Bytes{"a": s}, struct{ p *outer }{&o}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%p", "%!"} {
			got := fmt.Sprintf(verb, v)
			for _, bad := range []string{"hunter2", "104 117", "68756e", "68, 0x75", "0x68", "68756E", "h u n"} {
				if strings.Contains(got, bad) {
					t.Errorf("%s of %T shows the secret: %s", verb, v, got)
				}
			}
		}
		if b, err := json.Marshal(v); err == nil && strings.Contains(string(b), "hunter2") {
			t.Errorf("JSON of %T shows the secret", v)
		}
	}
}

// The octets are those that were given; Clone is independent, Destroy erases, and
// the zero value is empty.
func TestOctets(t *testing.T) {
	s := New([]byte{1, 2, 3})
	c := s.Clone()
	if !s.Equal(c) || s.Len() != 3 || s.Equal(New([]byte{1, 2})) {
		t.Error("clone and length")
	}
	s.Destroy()
	if !s.Equal(New(make([]byte, 3))) || c.Reveal()[2] != 3 {
		t.Error("destroy")
	}
	var zero Bytes
	if zero.Len() != 0 || len(zero.Reveal()) != 0 || !zero.Equal(New(nil)) {
		t.Error("zero value")
	}
	zero.Destroy()
}
