package sad

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// MinSPI is the lowest number to give out: 0 is never on the wire and 1 to 255
// are reserved (RFC 4303, Section 2.1).
const MinSPI = 256

// ReservationTime is how long an SPI without an SA stays reserved.
const ReservationTime = 2 * time.Minute

// SPIs gives out inbound SPIs, random and unique among reserved and used ones.
// It is safe for concurrent use. The zero value is ready.
type SPIs struct {
	mu sync.Mutex
	// taken has the end of a reservation, or the zero time for one with an SA.
	taken    map[uint32]time.Time
	reserved int
	swept    time.Time
}

// Alloc reserves an SPI until ReservationTime after now, Use or Free.
func (s *SPIs) Alloc(now time.Time) (uint32, error) { return s.alloc(now, ^uint32(0)) }

// AllocCPI reserves a Compression Parameter Index, of a space of its own.
func (s *SPIs) AllocCPI(now time.Time) (uint32, error) { return s.alloc(now, uint32(MaxCPI)) }

// alloc takes a number up to the highest that there is.
func (s *SPIs) alloc(now time.Time, highest uint32) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == nil {
		s.taken = make(map[uint32]time.Time)
	}
	s.sweep(now)
	// Each try fails with the share of the space that is taken; 64 failures in a
	// row mean that it is full.
	for range 64 {
		var b [4]byte
		rand.Read(b[:]) // never fails
		// Those of the smaller space are taken with nearly equal chances.
		spi := binary.BigEndian.Uint32(b[:])
		if highest != ^uint32(0) {
			spi %= highest + 1
		}
		if _, ok := s.taken[spi]; spi < MinSPI || ok {
			continue
		}
		s.taken[spi] = now.Add(ReservationTime)
		s.reserved++
		return spi, nil
	}
	return 0, fmt.Errorf("no free SPI found: %d are in use", len(s.taken))
}

// Use turns a reservation into use, or takes an SPI that was chosen elsewhere.
// An SPI in use or below MinSPI is an error; a lapsed reservation is none.
func (s *SPIs) Use(spi uint32) error {
	if spi < MinSPI {
		return fmt.Errorf("SPI %08x is reserved, expected at least %08x (RFC 4303, Section 2.1)", spi, MinSPI)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == nil {
		s.taken = make(map[uint32]time.Time)
	}
	until, ok := s.taken[spi]
	if ok && until.IsZero() {
		return fmt.Errorf("SPI %08x is in use by another SA", spi)
	}
	if ok {
		s.reserved--
	}
	s.taken[spi] = time.Time{}
	return nil
}

// Free gives an SPI back, reserved or used. A free one stays free.
func (s *SPIs) Free(spi uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until, ok := s.taken[spi]; ok && !until.IsZero() {
		s.reserved--
	}
	delete(s.taken, spi)
}

// sweep ends reservations that lapsed, at most once per ReservationTime.
func (s *SPIs) sweep(now time.Time) {
	if s.reserved == 0 || now.Before(s.swept.Add(ReservationTime)) {
		return
	}
	s.swept = now
	for spi, until := range s.taken {
		if !until.IsZero() && !now.Before(until) {
			delete(s.taken, spi)
			s.reserved--
		}
	}
}
