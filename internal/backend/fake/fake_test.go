package fake

import (
	"errors"
	"net/netip"
	"testing"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/sad"
)

// The fake keeps the contract that real backends keep.
func TestConformance(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backend.Backend { return New() })
}

// Calls are recorded in order, with what they were given and answered.
func TestRecordsAndFails(t *testing.T) {
	b := New()
	boom := errors.New("boom")
	b.FailNext(OpAddSA, boom)
	in, out := backendtest.Pair(3, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), 0x1000, 0x2000,
		netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16"))
	if err := b.AddSA(in); err != boom {
		t.Fatalf("error %v, expected the one that was asked for", err)
	}
	if err := b.AddSA(out); err != nil {
		t.Fatal(err)
	}
	calls := b.Calls()
	if len(calls) != 2 || calls[0].Err != boom || calls[1].ID != out.ID || !calls[1].SA.EncrKey.Equal(out.EncrKey) {
		t.Errorf("calls %+v", calls)
	}
	if !b.Expire(out.ID, true, "time") || b.Expire(in.ID, true, "time") {
		t.Error("Expire must tell whether the SA exists")
	}
	if e, ok := (<-b.Events()).(backend.Expire); !ok || e.ID != out.ID || e.Owner != 3 || !e.Hard {
		t.Errorf("event %+v", e)
	}
	b.SetUsage(out.ID, sad.Usage{Packets: 5})
	if u, _ := b.QuerySA(out.ID); u.Packets != 5 {
		t.Errorf("usage %+v", u)
	}
	spi, _ := b.AllocSPI(suite.ProtoESP, in.Dst)
	if b.Reserved() != 1 {
		t.Errorf("%d reserved, want 1", b.Reserved())
	}
	b.FreeSPI(suite.ProtoESP, in.Dst, spi)
	if b.Reserved() != 0 {
		t.Errorf("%d reserved, want 0", b.Reserved())
	}
}
