package krb_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"iked/kink"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
)

const captured = "krb5/testdata/racoon2/"

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// message is a KINK message of the capture, taken apart by hand.
type message struct {
	at       time.Time
	whole    []byte
	kind     byte
	ap, enc  []byte // the DER of the first payload; the ciphertext of the second
	checksum []byte
}

// capture reads the UDP payloads of a pcap of Ethernet and IPv4.
func capture(t testing.TB) (list []message) {
	t.Helper()
	b := file(t, captured+"kink.pcap")
	order := binary.ByteOrder(binary.LittleEndian)
	if binary.BigEndian.Uint32(b) == 0xa1b2c3d4 {
		order = binary.BigEndian
	}
	for b = b[24:]; len(b) > 16; {
		at := time.Unix(int64(order.Uint32(b)), int64(order.Uint32(b[4:]))*1000)
		n := order.Uint32(b[8:])
		frame := b[16 : 16+n]
		b = b[16+n:]
		if binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[23] != 17 {
			continue
		}
		p := frame[14+int(frame[14]&15)*4+8:]
		if len(p) < 16 || p[1] != 0x10 {
			continue
		}
		p = p[:binary.BigEndian.Uint16(p[2:])]
		m := message{at: at, whole: p, kind: p[0], checksum: p[len(p)-int(binary.BigEndian.Uint16(p[14:])):]}
		first := binary.BigEndian.Uint16(p[18:])
		m.ap = p[24 : 16+first]
		second := 16 + (int(first)+3)&^3
		m.enc = p[second+4 : second+int(binary.BigEndian.Uint16(p[second+2:]))]
		list = append(list, m)
	}
	if len(list) < 2 {
		t.Fatalf("%d messages", len(list))
	}
	return list
}

// racoon2's KRB_AP_REQ is accepted with the keytab of its peer, its KRB_AP_REP answers
// it, the messages around them are checked and decrypted with the session key, and the
// key of it in racoon2's form makes the keys that the kernel got.
func TestCaptureOfRacoon2(t *testing.T) {
	list := capture(t)
	create, reply := list[0], list[1]
	if create.kind != 1 || reply.kind != 3 {
		t.Fatalf("messages of type %d and %d", create.kind, reply.kind)
	}
	kt, err := krb.OpenKeytab(abs(t, captured+"kink-b.keytab"), create.at)
	if err != nil || kt.Problem() != nil {
		t.Fatal(err, kt.Problem())
	}
	b := principal(t, "kink/b.kink.test@KINK.TEST")
	r, err := krb.OpenReplay("", create.at, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	acc := krb.NewAcceptor(krb.AcceptorOptions{Identities: []krb.Identity{{Principal: b, Keytab: kt}}, Replay: r})
	from := netip.MustParseAddr("10.9.0.1")
	got, err := acc.Accept(create.at, create.ap, from)
	if err != nil {
		t.Fatal(describe(err))
	}
	if got.Client != principal(t, "kink/a.kink.test@KINK.TEST") || got.Server != b || got.Problem != nil || got.Key.EType() != krb5.AES256 {
		t.Errorf("accepted %+v", got)
	}
	if _, err := acc.Accept(create.at, create.ap, from); err == nil {
		t.Error("it is accepted twice")
	}

	// Its own answer to the same request says the same as ours.
	part := func(der []byte) time.Time {
		t.Helper()
		enc, err := krb5.ParseAPRep(der)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := enc.Open(got.Key.(krb5.Key), krb5.UsageAPRep)
		if err != nil {
			t.Fatal(err)
		}
		at, err := krb5.ParseAPRepPart(plain)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if theirs, ours := part(reply.ap), part(got.APRep); !theirs.Equal(ours) {
		t.Errorf("racoon2 answers %v, this system %v", theirs, ours)
	}
	if len(reply.ap) != len(got.APRep) {
		t.Errorf("racoon2's KRB_AP_REP has %d octets, this system's %d", len(reply.ap), len(got.APRep))
	}

	for _, m := range []message{create, reply} {
		plain := bytes.Clone(m.whole[:len(m.whole)-len(m.checksum)])
		binary.BigEndian.PutUint16(plain[2:], uint16(len(plain)))
		binary.BigEndian.PutUint16(plain[14:], 0)
		if !got.Key.Verify(kink.UsageChecksum, plain, m.checksum) {
			t.Errorf("the checksum of the message of type %d is refused", m.kind)
		}
	}
	payload, err := got.Key.Decrypt(kink.UsageEncrypt, create.enc)
	if err != nil {
		t.Fatal(err)
	}
	ni := payload[len(payload)-16:]
	seen := 0
	for _, m := range regexp.MustCompile(`(?s)spi 0x([0-9a-f]{8}).*?auth-trunc hmac\(sha1\) 0x([0-9a-f]{40}).*?enc cbc\(aes\) 0x([0-9a-f]{32})`).FindAllSubmatch(file(t, captured+"kink.sa-a.txt"), -1) {
		spi, err := hex.DecodeString(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		seed := append(append([]byte{3}, spi...), ni...)
		var last, keymat []byte
		for len(keymat) < 36 {
			if last, err = got.Key.PRF(kink.PRFRacoon2, append(last, seed...)); err != nil {
				t.Fatal(err)
			}
			keymat = append(keymat, last...)
		}
		if k := hex.EncodeToString(keymat[:36]); k != string(m[3])+string(m[2]) {
			t.Errorf("SPI %s: KEYMAT %s, the kernel got %s%s", m[1], k, m[3], m[2])
		}
		seen++
	}
	if seen != 2 {
		t.Errorf("%d SAs", seen)
	}
}

func abs(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(dir, "/") + "/" + name
}
