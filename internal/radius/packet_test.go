package radius

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"iked/internal/secret"

	"pgregory.net/rapid"
)

func octets(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key(s string) secret.Bytes { return secret.New([]byte(s)) }

// reply makes an authentic answer, of attributes that stand behind a
// Message-Authenticator; without it when bare.
func reply(code, id uint8, authenticator [16]byte, k secret.Bytes, bare bool, attrs ...[]byte) []byte {
	b := append([]byte{code, id, 0, 0}, authenticator[:]...)
	if !bare {
		b = appendAttr(b, attrMessageAuthenticator, make([]byte, 16))
	}
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	if !bare {
		copy(b[headerLen+2:], authenticate(b, k))
	}
	sum := md5.Sum(append(bytes.Clone(b), k.Reveal()...))
	copy(b[4:], sum[:])
	return b
}

// The exchange of RFC 2865, Section 7.1: the hidden password, and the Response
// Authenticator of an answer that has no Message-Authenticator, which is therefore
// refused for that alone.
func TestPublishedExchange(t *testing.T) {
	k := key("xyzzy5461")
	authenticator := [16]byte(octets(t, "0f 40 3f 94 73 97 80 57 bd 83 d5 cb 98 f4 22 7a"))
	if got, want := hide(key("arctangent"), authenticator, k), octets(t, "0d be 70 8d 93 d4 13 ce 31 96 e4 3f 78 2a 0a ee"); !bytes.Equal(got, want) {
		t.Errorf("User-Password %x, expected %x", got, want)
	}
	answer := octets(t, `02 00 00 26 86 fe 22 0e 76 24 ba 2a 10 05 f6 bf 9b 55 e0 b2
		06 06 00 00 00 01 0f 06 00 00 00 00 0e 06 c0 a8 01 03`)
	if got := reply(codeAccept, 0, authenticator, k, true, answer[headerLen:]); !bytes.Equal(got, answer) {
		t.Errorf("Response Authenticator %x, expected %x", got[4:20], answer[4:20])
	}
	if _, err := parseAnswer(answer, 0, authenticator, k); err == nil || !strings.Contains(err.Error(), "no Message-Authenticator") {
		t.Errorf("an answer without Message-Authenticator: %v", err)
	}
}

// Octets of a request: Message-Authenticator first (CVE-2024-3596), the password in
// blocks of 16, each hidden with the one before.
func TestRequestOctets(t *testing.T) {
	q := Request{User: "bob", Password: key(strings.Repeat("p", 17)), NASIdentifier: "iked", CallingStation: "192.0.2.1"}
	authenticator := [16]byte{1, 2, 3}
	k := key("a secret of many octets")
	b := q.append(nil, 7, authenticator, k)
	if b[0] != codeRequest || b[1] != 7 || int(binary.BigEndian.Uint16(b[2:])) != len(b) || [16]byte(b[4:]) != authenticator || b[headerLen] != attrMessageAuthenticator {
		t.Fatalf("%x", b)
	}
	mac := bytes.Clone(b[headerLen+2 : headerLen+18])
	zeroed := bytes.Clone(b)
	clear(zeroed[headerLen+2 : headerLen+18])
	if !bytes.Equal(mac, authenticate(zeroed, k)) {
		t.Error("Message-Authenticator is not over the packet with itself as zero")
	}
	rest := b[headerLen+18:]
	if want := "0105" + hex.EncodeToString([]byte("bob")) + "0222"; !strings.HasPrefix(hex.EncodeToString(rest), want) {
		t.Errorf("%x does not begin with %s", rest, want)
	}
	hidden := rest[7 : 7+32]
	before := append(authenticator[:0:0], authenticator[:]...)
	var clearText []byte
	for i := 0; i < 32; i += 16 {
		h := md5.Sum(append(bytes.Clone(k.Reveal()), before...))
		for j := range 16 {
			clearText = append(clearText, hidden[i+j]^h[j])
		}
		before = hidden[i : i+16]
	}
	if string(bytes.TrimRight(clearText, "\x00")) != strings.Repeat("p", 17) {
		t.Errorf("the password is hidden as %q", clearText)
	}
	if want := "2006" + hex.EncodeToString([]byte("iked")) + "3d06000000051f0b" + hex.EncodeToString([]byte("192.0.2.1")); hex.EncodeToString(rest[39:]) != want {
		t.Errorf("%x, expected %s", rest[39:], want)
	}
	if bytes.Contains(b, []byte("ppp")) {
		t.Error("the password is in clear")
	}
	for name, bad := range map[string]Request{
		"no user":       {NASIdentifier: "x"},
		"long user":     {User: strings.Repeat("u", 254), NASIdentifier: "x"},
		"long password": {User: "u", Password: key(strings.Repeat("p", 129)), NASIdentifier: "x"},
		"no NAS":        {User: "u"},
		"long station":  {User: "u", NASIdentifier: "x", CallingStation: strings.Repeat("c", 254)},
	} {
		if bad.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What an authentic answer says.
func TestAnswers(t *testing.T) {
	k, authenticator := key("a secret of many octets"), [16]byte{9}
	ip := func(a, b, c, d byte) []byte { return appendAttr(nil, attrFramedIPAddress, []byte{a, b, c, d}) }
	for _, c := range []struct {
		code  uint8
		attrs [][]byte
		want  Answer
	}{
		{codeAccept, nil, Answer{Verdict: Accepted}},
		{codeAccept, [][]byte{ip(10, 9, 0, 7)}, Answer{Verdict: Accepted, Address: netip.MustParseAddr("10.9.0.7")}},
		// RFC 2865, Section 5.8: the user's choice, the NAS's choice; and no host's.
		{codeAccept, [][]byte{ip(255, 255, 255, 255)}, Answer{Verdict: Accepted}},
		{codeAccept, [][]byte{ip(255, 255, 255, 254)}, Answer{Verdict: Accepted}},
		{codeAccept, [][]byte{ip(127, 0, 0, 1)}, Answer{Verdict: Accepted}},
		{codeAccept, [][]byte{ip(0, 0, 0, 0)}, Answer{Verdict: Accepted}},
		{codeReject, [][]byte{ip(10, 9, 0, 7), appendAttr(nil, attrReplyMessage, []byte("no"))}, Answer{Verdict: Rejected, Message: "no"}},
		{codeChallenge, nil, Answer{Verdict: Challenge}},
	} {
		b := reply(c.code, 3, authenticator, k, false, c.attrs...)
		before := bytes.Clone(b)
		a, err := parseAnswer(b, 3, authenticator, k)
		if err != nil || a != c.want {
			t.Errorf("code %d %x: %+v, %v; expected %+v", c.code, c.attrs, a, err, c.want)
		}
		if !bytes.Equal(b, before) {
			t.Error("the packet was changed")
		}
		// RFC 2865, Section 3: padding behind the length is ignored.
		if _, err := parseAnswer(append(bytes.Clone(b), 1, 2, 3), 3, authenticator, k); err != nil {
			t.Errorf("padding: %v", err)
		}
	}
}

// Nothing of an answer can be changed, cut off or said by who does not have the
// secret.
func TestForgedAnswers(t *testing.T) {
	k, authenticator := key("a secret of many octets"), [16]byte{9}
	b := reply(codeReject, 3, authenticator, k, false, appendAttr(nil, attrReplyMessage, []byte("no")))
	for i := range b {
		if _, err := parseAnswer(b[:i], 3, authenticator, k); err == nil {
			t.Errorf("the first %d octets are an answer", i)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		x := bytes.Clone(b)
		i := rapid.IntRange(0, len(x)-1).Draw(t, "at")
		x[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "change"))
		if a, err := parseAnswer(x, 3, authenticator, k); err == nil {
			t.Fatalf("%x is an answer: %+v", x, a)
		}
	})
	twice := reply(codeAccept, 3, authenticator, k, false, appendAttr(nil, attrMessageAuthenticator, make([]byte, 16)))
	short := reply(codeAccept, 3, authenticator, k, true, appendAttr(nil, attrMessageAuthenticator, make([]byte, 4)))
	// The Response Authenticator alone is right: what an attacker can make of a
	// refusal with a collision of MD5 (CVE-2024-3596).
	collision := reply(codeAccept, 3, authenticator, k, true, appendAttr(nil, attrMessageAuthenticator, make([]byte, 16)))
	for name, c := range map[string]struct {
		b    []byte
		id   uint8
		auth [16]byte
		key  string
	}{
		"another request":               {b, 4, authenticator, "a secret of many octets"},
		"another authenticator":         {b, 3, [16]byte{8}, "a secret of many octets"},
		"another secret":                {b, 3, authenticator, "another secret"},
		"no Message-Authenticator":      {reply(codeAccept, 3, authenticator, k, true), 3, authenticator, "a secret of many octets"},
		"two Message-Authenticators":    {twice, 3, authenticator, "a secret of many octets"},
		"a short Message-Authenticator": {short, 3, authenticator, "a secret of many octets"},
		"a made-up one":                 {collision, 3, authenticator, "a secret of many octets"},
		"a request":                     {reply(codeRequest, 3, authenticator, k, false), 3, authenticator, "a secret of many octets"},
		"a short address":               {reply(codeAccept, 3, authenticator, k, false, appendAttr(nil, attrFramedIPAddress, []byte{1})), 3, authenticator, "a secret of many octets"},
		"an attribute of no length":     {reply(codeAccept, 3, authenticator, k, false, []byte{18, 1, 0}), 3, authenticator, "a secret of many octets"},
	} {
		if a, err := parseAnswer(c.b, c.id, c.auth, key(c.key)); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// No packet of a stranger's makes the parser fail, or is an answer.
func FuzzAnswer(f *testing.F) {
	k, authenticator := key("a secret of many octets"), [16]byte{9}
	good := reply(codeAccept, 3, authenticator, k, false, appendAttr(nil, attrFramedIPAddress, []byte{10, 0, 0, 1}))
	f.Add(good)
	f.Add(reply(codeReject, 3, authenticator, k, true, appendAttr(nil, attrReplyMessage, []byte("no"))))
	f.Add([]byte{2, 3, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 80, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b, 3, authenticator, k)
		if err == nil && !bytes.HasPrefix(b, good) {
			t.Fatalf("%x is an answer: %+v", b, a)
		}
	})
}
