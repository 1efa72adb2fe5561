package offer

import (
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/internal/keyex"
)

// RFC 2407, Sections 4.4.3, 4.4.4 and 4.5: what a transform of phase 2 must say, may
// say, and what refuses it.
func TestReadTransform(t *testing.T) {
	b := message.Basic
	life := func(kind uint16, v uint64) []message.Attribute {
		return []message.Attribute{b(message.P2LifeType, kind), message.Duration(message.P2LifeDuration, v)}
	}
	aes := []message.Attribute{b(message.P2KeyLength, 128), b(message.P2Auth, 5)}
	for name, c := range map[string]struct {
		proto   message.Protocol
		id      uint8
		attrs   []message.Attribute
		why     string // "": it is read
		seconds uint64
		kbytes  uint64
	}{
		"AES and SHA-256":                      {message.ProtoESP, 12, aes, "", 0, 0},
		"seconds":                              {message.ProtoESP, 12, slices.Concat(aes, life(1, 3600)), "", 3600, 0},
		"seconds and kilobytes":                {message.ProtoESP, 12, slices.Concat(life(1, 3600), aes, life(2, 1<<20)), "", 3600, 1 << 20},
		"kilobytes and seconds":                {message.ProtoESP, 12, slices.Concat(life(2, 1<<20), life(1, 86400), aes), "", 86400, 1 << 20},
		"a duration of eight octets":           {message.ProtoESP, 12, slices.Concat(aes, []message.Attribute{b(message.P2LifeType, 1), message.Variable(message.P2LifeDuration, []byte{0, 0, 0, 0, 0, 0, 0x0e, 0x10})}), "", 3600, 0},
		"a duration without a type":            {message.ProtoESP, 12, slices.Concat(aes, life(1, 3600)[1:]), "no life type", 0, 0},
		"a duration of an unknown type":        {message.ProtoESP, 12, slices.Concat(aes, life(3, 3600)), "no life type", 0, 0},
		"an attribute twice":                   {message.ProtoESP, 12, slices.Concat(aes, aes), "twice", 0, 0},
		"a reserved attribute":                 {message.ProtoESP, 12, slices.Concat(aes, []message.Attribute{b(0, 1)}), "not understood", 0, 0},
		"a private attribute":                  {message.ProtoESP, 12, slices.Concat(aes, []message.Attribute{b(32001, 1)}), "not understood", 0, 0},
		"an attribute without a value":         {message.ProtoESP, 12, slices.Concat(aes, []message.Attribute{message.Variable(message.P2Group, nil)}), "not understood", 0, 0},
		"AES without key length":               {message.ProtoESP, 12, aes[1:], "needs a key length", 0, 0},
		"AES with a strange one":               {message.ProtoESP, 12, []message.Attribute{b(message.P2KeyLength, 100), b(message.P2Auth, 5)}, "needs a key length", 0, 0},
		"3DES with key length":                 {message.ProtoESP, 3, aes, "one key length", 0, 0},
		"ESP without integrity":                {message.ProtoESP, 12, aes[:1], "none", 0, 0},
		"NULL without integrity":               {message.ProtoESP, 11, nil, "none", 0, 0},
		"NULL with integrity":                  {message.ProtoESP, 11, aes[1:], "", 0, 0},
		"DES":                                  {message.ProtoESP, 2, aes[1:], "not implemented", 0, 0},
		"GCM with an integrity beside":         {message.ProtoESP, 20, aes, "combined-mode", 0, 0},
		"HMAC-MD5":                             {message.ProtoESP, 12, []message.Attribute{b(message.P2KeyLength, 128), b(message.P2Auth, 1)}, "not implemented", 0, 0},
		"AH and its algorithm":                 {message.ProtoAH, 5, aes[1:], "", 0, 0},
		"AH without the attribute":             {message.ProtoAH, 5, nil, "not implemented", 0, 0},
		"AH with that of another transform":    {message.ProtoAH, 3, aes[1:], "not implemented", 0, 0},
		"AH_MD5":                               {message.ProtoAH, 2, []message.Attribute{b(message.P2Auth, 1)}, "not implemented", 0, 0},
		"ISAKMP in Quick Mode":                 {message.ProtoISAKMP, 1, nil, "not spoken", 0, 0},
		"basic attributes in the long form":    {message.ProtoESP, 12, []message.Attribute{message.Variable(message.P2KeyLength, []byte{0, 128}), message.Variable(message.P2Auth, []byte{0, 0, 0, 5})}, "", 0, 0},
		"a long form that is no 16-bit number": {message.ProtoESP, 12, []message.Attribute{message.Variable(message.P2KeyLength, []byte{1, 0, 128}), aes[1]}, "has the value", 0, 0},
	} {
		p, why := Read(c.proto, &message.Transform{ID: c.id, Attributes: c.attrs})
		if (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
			t.Errorf("%s: %q, expected %q", name, why, c.why)
			continue
		}
		if why == "" && (p.Seconds != c.seconds || p.KBytes != c.kbytes) {
			t.Errorf("%s: %d seconds, %d kilobytes; expected %d, %d", name, p.Seconds, p.KBytes, c.seconds, c.kbytes)
		}
	}
}

// RFC 2407, Section 4.5: a transform that says no lifetime means eight hours, which
// counts as any other.
func TestDefaultLifetime(t *testing.T) {
	for hard, want := range map[time.Duration]uint64{0: 28800, 10 * time.Hour: 28800, 7 * time.Hour: 7 * 3600} {
		use, tell, ok := WeighChild(keyex.LifeClaim, &keyex.ChildConfig{Time: keyex.Lifetime{Hard: hard}}, Transform{})
		if !ok || use.Seconds != want || (tell.Seconds != 0) != (want != 28800) {
			t.Errorf("own limit %v: %d seconds are used, %d told; expected %d", hard, use.Seconds, tell.Seconds, want)
		}
	}
}
