package engine

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"

	"iked/ikev2"
	"iked/internal/ident"
	"iked/internal/secret"
)

// env is what an IKE SA's state machine asks the engine for; every answer comes
// at once. It is safe for concurrent use.
type env struct {
	e *Engine
	// version is the one whose configurations may answer a peer.
	version uint8
}

// Candidates implements ikev2.Env.
func (v env) Candidates(local, remote netip.Addr) []*ikev2.Config {
	return v.e.config.Load().candidates(local.Unmap(), remote.Unmap(), v.version)
}

// PSK implements ikev2.Env.
func (v env) PSK(local, remote ident.ID) (secret.Bytes, bool) { return v.e.store.psk(local, remote) }

// CertRequests implements ikev2.Env.
func (v env) CertRequests(cfg *ikev2.Config) []byte { return v.e.store.certRequests(cfg) }

// NewSPI implements ikev2.Env.
func (v env) NewSPI() ikev2.SPI {
	for {
		var b [8]byte
		rand.Read(b[:])
		spi := ikev2.SPI(binary.BigEndian.Uint64(b[:]))
		if spi != 0 && v.e.spis.get(spi) == nil {
			return spi
		}
	}
}

// NextChildID implements ikev2.Env.
func (v env) NextChildID() uint32 { return v.e.nextChild.Add(1) }

// NextIKEID implements ikev2.Env.
func (v env) NextIKEID() uint32 { return v.e.nextIKE.Add(1) }

// Random implements ikev2.Env.
func (v env) Random(b []byte) { rand.Read(b) }
