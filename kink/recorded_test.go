package kink_test

import (
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/vectors"
	"iked/kink"
	"iked/kink/krb"
	"iked/kink/krb/krb5"
	"iked/kink/message"
	"iked/spd"
)

// Key material of each encryption type, with and without the responder's nonce, is
// that of MIT's library.
func TestKeyMat(t *testing.T) {
	b, err := os.ReadFile("krb/krb5/testdata/kink_krb5_generated.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors.Parse[struct {
		EType                                                 int32
		Session_Key, Ni_B, Nr_B, Keymat64_2way, Keymat64_3way vectors.Hex
		Protocol                                              uint8
		SPI                                                   vectors.Hex
	}](t, b) {
		key, err := krb5.NewKey(v.EType, v.Session_Key)
		if err != nil {
			t.Fatal(err)
		}
		spi := uint32(v.SPI[0])<<24 | uint32(v.SPI[1])<<16 | uint32(v.SPI[2])<<8 | uint32(v.SPI[3])
		for _, c := range []struct{ nr, want []byte }{{nil, v.Keymat64_2way}, {v.Nr_B, v.Keymat64_3way}} {
			got, err := kink.KeyMat(key, kink.PRFStandard, secret.Bytes{}, v.Protocol, spi, v.Ni_B, c.nr, 64)
			if err != nil || hex.EncodeToString(got.Reveal()) != hex.EncodeToString(c.want) {
				t.Errorf("etype %d, Nr %x: %x (%v), expected %x", v.EType, c.nr, got.Reveal(), err, c.want)
			}
		}
	}
}

// answering is what the recorded exchange needs of its surroundings.
type answering struct {
	t    *testing.T
	sa   *kink.SA
	cfg  *keyex.Config
	ids  uint32
	in   *keyex.Child
	out  *keyex.Child
	sent []byte
}

func (a *answering) Candidates(_, _ netip.Addr) []*keyex.Config { return []*keyex.Config{a.cfg} }
func (a *answering) PSK(_, _ ident.ID) (secret.Bytes, bool)     { return secret.Bytes{}, false }
func (a *answering) CertRequests(*keyex.Config) []byte          { return nil }
func (a *answering) NewSPI() keyex.SPI                          { return 0 }
func (a *answering) NextChildID() uint32                        { a.ids++; return a.ids }
func (a *answering) NextIKEID() uint32                          { a.ids++; return a.ids }
func (a *answering) Random(b []byte)                            { clear(b) }
func (a *answering) Epoch() uint32                              { return 1795459996 }

func (a *answering) drain(now time.Time) {
	for o := range a.sa.Outputs() {
		switch o := o.(type) {
		case keyex.Send:
			a.sent = o.Data
		case keyex.Event:
			if f, ok := o.Event.(keyex.Failed); ok {
				a.t.Fatal(f.Failure.Sentence)
			}
		case keyex.Request:
			switch w := o.Work.(type) {
			case keyex.AllocSPI:
				a.sa.Resume(now, o.ID, keyex.SPIReply{SPI: 0x0baf0852})
			case keyex.InstallChild:
				if w.In {
					a.in = w.Child
				}
				if w.Out {
					a.out = w.Child
				}
				a.sa.Resume(now, o.ID, keyex.DoneReply{})
			}
		}
	}
}

// The CREATE that racoon2's kinkd sent another one is answered, with the keys that the
// kernel of the recorded hosts got, and with the choice that the other one made.
func TestRecordedCreate(t *testing.T) {
	var recorded []struct {
		Message, Inner vectors.Hex
	}
	b, err := os.ReadFile("message/testdata/racoon2.json")
	if err != nil {
		t.Fatal(err)
	}
	recorded = vectors.Parse[struct{ Message, Inner vectors.Hex }](t, b)
	now := time.Unix(1795459996, 0)
	path, err := filepath.Abs("krb/krb5/testdata/racoon2/kink-b.keytab")
	if err != nil {
		t.Fatal(err)
	}
	keytab, err := krb.OpenKeytab(path, now)
	if err != nil || keytab.Problem() != nil {
		t.Fatal(err, keytab.Problem())
	}
	own, err := kink.ParsePrincipal("kink/b.kink.test@KINK.TEST")
	if err != nil {
		t.Fatal(err)
	}
	replay, err := krb.OpenReplay("", now, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	acceptor := krb.NewAcceptor(krb.AcceptorOptions{Identities: []krb.Identity{{Principal: own, Keytab: keytab}}, Replay: replay})
	esp, err := suite.ParseProposals(suite.ProtoESP, []string{"aes128-sha1"})
	if err != nil {
		t.Fatal(err)
	}
	host := func(s string) []keyex.Selector {
		return []keyex.Selector{{TS: spd.FromPrefix(netip.MustParsePrefix(s))}}
	}
	a := &answering{t: t, cfg: &keyex.Config{Name: "racoon2", Version: keyex.VersionKINK, KINK: keyex.KINK{Racoon2: true},
		Local: keyex.AuthConfig{ID: own.Ident()}, Remote: keyex.AuthConfig{ID: ident.ID{Type: ident.Kerberos, Data: "kink/*.kink.test@KINK.TEST"}},
		Children: []*keyex.ChildConfig{{Name: "hosts", Proposals: esp, Mode: spd.Transport, Local: host("10.9.0.2/32"), Remote: host("10.9.0.1/32")}}}}
	o := kink.Opener{Acceptor: acceptor, Epoch: a.Epoch(), Own: own}
	c, no := o.Open(now, keyex.Datagram{Local: netip.MustParseAddrPort("10.9.0.2:910"), Remote: netip.MustParseAddrPort("10.9.0.1:910"), Data: recorded[0].Message})
	if no != nil {
		t.Fatalf("%+v", no)
	}
	if c.Client.String() != "kink/a.kink.test@KINK.TEST" || c.Epoch != 1795459996 {
		t.Errorf("it was opened as %+v", c)
	}
	to, cfg := c.Route(a, nil, a.Candidates(netip.Addr{}, netip.Addr{}))
	if to != nil || cfg != a.cfg {
		t.Fatalf("it is for %v %v", to, cfg)
	}
	a.sa = kink.NewResponder(a, cfg, c)
	a.sa.Command(now, c)
	a.drain(now)
	if a.in == nil || a.in != a.out {
		t.Fatal("no pair of SAs was made in two messages")
	}
	for what, x := range map[string][2]string{
		"encryption inbound":  {hex.EncodeToString(a.in.EncrIn.Reveal()), "07c7a917615f58510f0802aa1197018b"},
		"integrity inbound":   {hex.EncodeToString(a.in.IntegIn.Reveal()), "d2f7659c2b51a6c1c77fd0add7a8589228ce8036"},
		"encryption outbound": {hex.EncodeToString(a.in.EncrOut.Reveal()), "8ec2e98166a1c98bf3663b6ca458fcd1"},
		"integrity outbound":  {hex.EncodeToString(a.in.IntegOut.Reveal()), "8a428eef158e3439c0977fbaade083f680807bcf"},
	} {
		if x[0] != x[1] {
			t.Errorf("%s: the key is %s, the kernel got %s", what, x[0], x[1])
		}
	}
	m, err := message.Parse(a.sent)
	if err != nil || m.AckReq {
		t.Fatalf("the answer is %+v, %v", m, err)
	}
	if !c.Key.Verify(kink.UsageChecksum, m.Covered(), m.Cksum) {
		t.Error("the checksum of the answer is wrong")
	}
	plain, err := c.Key.Decrypt(kink.UsageEncrypt, m.Encrypt)
	if err != nil || hex.EncodeToString(plain) != hex.EncodeToString(recorded[1].Inner) {
		t.Errorf("the answer has within\n%x (%v), that of racoon2\n%x", plain, err, recorded[1].Inner)
	}
}
