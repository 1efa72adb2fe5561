package vici

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/engine"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/spd"
	"iked/vici/wire"
)

// raw writes a message as clients dump it, where order and presence show.
func raw(m wire.Message) string {
	var parts []string
	for _, n := range m {
		switch n.Kind {
		case wire.KindSection:
			parts = append(parts, n.Name+" {"+raw(n.Sub)+"}")
		case wire.KindValue:
			parts = append(parts, fmt.Sprintf("%s=%s", n.Name, n.Value))
		case wire.KindList:
			var items []string
			for _, it := range n.Items {
				items = append(items, string(it))
			}
			parts = append(parts, n.Name+"=["+strings.Join(items, " ")+"]")
		}
	}
	return strings.Join(parts, " ")
}

func parseID(t *testing.T, s string) ident.ID {
	t.Helper()
	id, err := ident.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func parseTS(t *testing.T, s string) []spd.TS {
	t.Helper()
	ts, _, err := spd.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return []spd.TS{ts}
}

// An IKE SA with its CHILD_SA has the keys, in the order, that the field's
// clients and scripts match: it is the line that strongSwan 5.9.8 gives for the
// same SAs, and the largest inner packet, which is only here.
func TestListSAGolden(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sa := engine.SAInfo{
		Version: 2, UniqueID: 2, Conn: "psk", State: ikev2.Established,
		Local: netip.MustParseAddrPort("192.0.2.2:4500"), Remote: netip.MustParseAddrPort("192.0.2.1:4500"),
		LocalID: parseID(t, "psk-b"), RemoteID: parseID(t, "psk-a"),
		SPIi: 0x1ebc4c8b0cb1d923, SPIr: 0x41e460b8c5e38a6b, NATRemote: true,
		Encr:        suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128},
		Integ:       suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256},
		PRF:         suite.Transform{Type: suite.PRF, ID: suite.PRFHMACSHA256},
		KE:          suite.Transform{Type: suite.KE, ID: suite.KEX25519},
		Established: now, RekeyAt: now.Add(13516 * time.Second),
		RemoteVIPs: []netip.Addr{netip.MustParseAddr("10.9.0.1")},
		User:       "bob\n", Banner: "héllo", Domain: "example.org", Networks: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")},
		Home: keyex.HomeLink{Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}, Agent: netip.MustParseAddr("2001:db8::1"), Agent4: netip.MustParseAddr("192.0.2.9")},
		Children: []engine.ChildInfo{{
			Name: "home", UniqueID: 2, ReqID: 1, ReqIDIn: 8, State: ikev2.ChildInstalled, Mode: spd.Tunnel, Proto: suite.ProtoESP, Encap: true,
			SPIIn: 0x6923453e, SPIOut: 0x5a29df51,
			Encr:      suite.Transform{Type: suite.ENCR, ID: suite.EncrAESGCM16, KeyBits: 256},
			Installed: now, RekeyAt: now.Add(3411 * time.Second), ExpireAt: now.Add(3960 * time.Second),
			Local: parseTS(t, "10.2.0.0/24"), Remote: parseTS(t, "10.9.0.1/32"), MTU: 1438,
		}},
	}
	var m wire.Message
	m.SetSection(sa.Conn, withChildren(ikeSection(&sa, now), sa.Children, now))
	want := "psk {uniqueid=2 version=2 state=ESTABLISHED local-host=192.0.2.2 local-port=4500 local-id=psk-b remote-host=192.0.2.1 remote-port=4500 remote-id=psk-a remote-xauth-id=bob? " +
		"initiator-spi=1ebc4c8b0cb1d923 responder-spi=41e460b8c5e38a6b nat-remote=yes nat-any=yes encr-alg=AES_CBC encr-keysize=128 integ-alg=HMAC_SHA2_256_128 " +
		"prf-alg=PRF_HMAC_SHA2_256 dh-group=CURVE_25519 established=0 rekey-time=13516 remote-vips=[10.9.0.1] banner=h??llo domain=example.org split-include=[10.2.0.0/16] home-prefixes=[2001:db8:1::/64] home-agent=[2001:db8::1 192.0.2.9] child-sas {home-2 {name=home uniqueid=2 reqid=1 reqid-in=8 " +
		"state=INSTALLED mode=TUNNEL protocol=ESP encap=yes spi-in=6923453e spi-out=5a29df51 encr-alg=AES_GCM_16 encr-keysize=256 bytes-in=0 packets-in=0 " +
		"bytes-out=0 packets-out=0 rekey-time=3411 life-time=3960 install-time=0 mtu=1438 local-ts=[10.2.0.0/24] remote-ts=[10.9.0.1/32]}}}"
	if got := raw(m); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What is not known or not there is absent: no algorithms before a proposal was
// chosen, no SPIs of a CHILD_SA that is not installed, no "no" for a flag.
func TestListSAAbsent(t *testing.T) {
	sa := engine.SAInfo{Version: 2, UniqueID: 7, Conn: "c", State: ikev2.Connecting, Initiator: true, Active: []string{"IKE_INIT"},
		Children: []engine.ChildInfo{{Name: "k", UniqueID: 9, ReqID: 4, State: ikev2.ChildCreated, ESN: true, SPIIn: 1}}}
	got := raw(withChildren(ikeSection(&sa, time.Time{}), sa.Children, time.Time{}))
	want := "uniqueid=7 version=2 state=CONNECTING local-host=%any local-port=0 local-id=%any remote-host=%any remote-port=0 remote-id=%any initiator=yes " +
		"initiator-spi=0000000000000000 responder-spi=0000000000000000 tasks-active=[IKE_INIT] child-sas {k-9 {name=k uniqueid=9 reqid=4 state=CREATED mode=TUNNEL local-ts=[] remote-ts=[]}}"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What KINK has with a principal is listed as an IKE SA: version kink, principals as
// identities, no SPIs of its own.
func TestListSAOfKINK(t *testing.T) {
	id := func(s string) ident.ID { return ident.ID{Type: ident.Kerberos, Data: s} }
	sa := engine.SAInfo{Version: keyex.VersionKINK, UniqueID: 3, Conn: "c", State: ikev2.Established, LocalID: id("kink/a.example.org@EXAMPLE.ORG"), RemoteID: id("kink/b.example.org@EXAMPLE.ORG"),
		Local: netip.MustParseAddrPort("192.0.2.1:910"), Remote: netip.MustParseAddrPort("192.0.2.2:910")}
	got := raw(ikeSection(&sa, time.Time{}))
	want := "uniqueid=3 version=kink state=ESTABLISHED local-host=192.0.2.1 local-port=910 local-id=kink/a.example.org@EXAMPLE.ORG remote-host=192.0.2.2 remote-port=910 remote-id=kink/b.example.org@EXAMPLE.ORG " +
		"initiator-spi=0000000000000000 responder-spi=0000000000000000 established=0"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The mode, the protocol and what the SAs are bound to have the keys that clients
// know, in their place: marks, with the mask where it is not all ones, and the
// number of an interface.
func TestListSABindings(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	all := ^uint32(0)
	for _, x := range []struct {
		child engine.ChildInfo
		want  string
	}{
		{engine.ChildInfo{Mode: spd.Transport, Proto: suite.ProtoAH, ESN: true, Integ: suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256}},
			"mode=TRANSPORT protocol=AH spi-in=00001001 spi-out=00001002 integ-alg=HMAC_SHA2_256_128 esn=1 bytes-in"},
		{engine.ChildInfo{Mode: spd.BEET, Proto: suite.ProtoESP, Encr: suite.Transform{Type: suite.ENCR, ID: suite.EncrAESGCM16, KeyBits: 128}},
			"mode=BEET protocol=ESP spi-in=00001001 spi-out=00001002 encr-alg=AES_GCM_16 encr-keysize=128 bytes-in"},
		{engine.ChildInfo{Mode: spd.Tunnel, Proto: suite.ProtoESP, IfID: 42}, "spi-out=00001002 if-id-in=0000002a if-id-out=0000002a bytes-in"},
		{engine.ChildInfo{Mode: spd.Tunnel, Proto: suite.ProtoESP, MarkIn: spd.Mark{Value: 1, Mask: all}, MarkOut: spd.Mark{Value: 0x20, Mask: 0xf0}},
			"spi-out=00001002 mark-in=00000001 mark-out=00000020 mark-mask-out=000000f0 bytes-in"},
		{engine.ChildInfo{Mode: spd.Tunnel, Proto: suite.ProtoESP, Replayed: 3, BadICV: 1}, "install-time=0 replayed-in=3 bad-icv-in=1 local-ts"},
	} {
		x.child.State, x.child.SPIIn, x.child.SPIOut, x.child.Installed = ikev2.ChildInstalled, 0x1001, 0x1002, now
		if got := raw(childSection(&x.child, now)); !strings.Contains(got, x.want) {
			t.Errorf("got\n%s\nwant it to contain\n%s", got, x.want)
		}
	}
}

// Every state has the name that clients wait for.
func TestStateNames(t *testing.T) {
	for s, want := range map[ikev2.SAState]string{ikev2.Created: "CREATED", ikev2.Connecting: "CONNECTING", ikev2.Established: "ESTABLISHED",
		ikev2.Rekeying: "REKEYING", ikev2.Rekeyed: "REKEYED", ikev2.Deleting: "DELETING", ikev2.Destroying: "DESTROYING"} {
		if got := ikeState(s); got != want {
			t.Errorf("IKE state %d is %s, want %s", s, got, want)
		}
	}
	for s, want := range map[ikev2.ChildState]string{ikev2.ChildCreated: "CREATED", ikev2.ChildInstalling: "INSTALLING", ikev2.ChildInstalled: "INSTALLED",
		ikev2.ChildUpdating: "UPDATING", ikev2.ChildRekeying: "REKEYING", ikev2.ChildRekeyed: "REKEYED", ikev2.ChildDeleting: "DELETING", ikev2.ChildDeleted: "DELETED"} {
		if got := childState(s); got != want {
			t.Errorf("CHILD state %d is %s, want %s", s, got, want)
		}
	}
}
