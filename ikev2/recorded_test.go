package ikev2

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"time"

	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/ident"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/spd"
)

// recordedEnv has the secret of the recorded handshake.
type recordedEnv struct{ psk string }

func (recordedEnv) Candidates(local, remote netip.Addr) []*Config { return nil }
func (e recordedEnv) PSK(local, remote ident.ID) (secret.Bytes, bool) {
	return secret.New([]byte(e.psk)), true
}
func (recordedEnv) CertRequests(*Config) []byte { return nil }
func (recordedEnv) NewSPI() SPI                 { return 1 }
func (recordedEnv) NextChildID() uint32         { return 1 }
func (recordedEnv) NextIKEID() uint32           { return 1 }
func (recordedEnv) Random(b []byte)             { clear(b) }

// A handshake that others recorded: with its initiator's secrets this state
// machine makes the same AUTH, and takes the responder's messages as they were
// on the wire (RFC 7296, Sections 2.14 and 2.15).
func TestRecordedHandshake(t *testing.T) {
	raw, err := os.ReadFile("testdata/recorded_handshake.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vector struct {
			PSK      string
			Messages []string
			GIR      string `json:"g_ir"`
			NI       string
			SKd      string `json:"sk_d"`
			AuthI    string `json:"auth_i"`
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	v := file.Vector
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	parse := func(proto suite.Protocol, item string) []suite.Proposal {
		ps, err := suite.ParseProposals(proto, []string{item})
		if err != nil {
			t.Fatal(err)
		}
		return ps
	}
	any := []Selector{{TS: spd.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))}}
	child := &ChildConfig{Name: "net", Proposals: parse(suite.ProtoESP, "aes128-sha1"), Local: any, Remote: any}
	cfg := &Config{Name: "recorded", Proposals: parse(suite.ProtoIKE, "aes128-sha1-modp1024"),
		Local: AuthConfig{Class: AuthPSK, ID: ident.FromAddr(netip.MustParseAddr("10.0.3.1"))}, Remote: AuthConfig{Class: AuthPSK}}
	local, remote := netip.MustParseAddrPort("10.0.3.1:500"), netip.MustParseAddrPort("10.0.3.10:500")

	sa := NewInitiator(recordedEnv{v.PSK}, cfg, local, remote)
	first, answer := un(v.Messages[0]), un(v.Messages[1])
	h, err := message.CheckHeader(first)
	if err != nil {
		t.Fatal(err)
	}
	sa.spiI, sa.state = isakmp.SPI(h.SPIi), Connecting
	x := &ikeInit{*newFlow(sa)}
	sa.active = x
	sa.hs = &handshake{ni: un(v.NI), group: suite.KEMODP1024, init1: first, child: child}
	now := time.Unix(0, 0)
	// The private value is not needed: g^ir is in the record.
	if sa.hs.pair, err = ke.Generate(suite.KEMODP1024, bytes.NewReader(make([]byte, keyex.KESeed))); err != nil {
		t.Fatal(err)
	}
	m, err := message.Parse(answer)
	if err != nil {
		t.Fatal(err)
	}
	view, err := message.ParseIKESAInitResponse(m)
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := chosenFrom(cfg.Proposals, &view.SA.Proposals[0], suite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x.accepted(now, view, chosen, secret.New(un(v.GIR)), Datagram{Local: local, Remote: remote, Data: answer})
	if !bytes.Equal(sa.keys.skd.Reveal(), un(v.SKd)) {
		t.Error("SK_d differs")
	}
	auth := sa.active.(*authInitiator)
	serve(t, sa, now)
	if !bytes.Equal(auth.auth.Data, un(v.AuthI)) {
		t.Errorf("AUTH is %x, recorded %s", auth.auth.Data, v.AuthI)
	}
	sa.Receive(now, Datagram{Local: local, Remote: remote, Data: un(v.Messages[3])})
	serve(t, sa, now)
	if sa.State() != Established || len(sa.Children()) != 1 || sa.Children()[0].State != ChildInstalled {
		t.Errorf("the recorded responder was not accepted: state %v, %d children", sa.State(), len(sa.Children()))
	}
}

// serve is the least of an engine.
func serve(t *testing.T, sa *SA, now time.Time) {
	for o := range sa.Outputs() {
		switch o := o.(type) {
		case Closed:
			t.Fatalf("closed: %+v", o.Failure)
		case Request:
			switch o.Work.(type) {
			case AllocSPI:
				sa.Resume(now, o.ID, SPIReply{SPI: 0x1234})
			case InstallChild:
				sa.Resume(now, o.ID, DoneReply{})
			}
		}
	}
}
