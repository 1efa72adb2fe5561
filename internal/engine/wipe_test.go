package engine

import (
	"bytes"
	"testing"
	"time"
)

// The keys of a CHILD_SA are overwritten when its last SA left the backend, and
// not before.
func TestKeysAreWiped(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		sas := moon.back.SAs()
		if len(sas) != 2 {
			t.Fatalf("%d SAs in the backend, want 2", len(sas))
		}
		wiped := func(key []byte) bool { return bytes.Equal(key, make([]byte, len(key))) }
		for _, sa := range sas {
			if sa.EncrKey.Len() == 0 || wiped(sa.EncrKey.Reveal()) {
				t.Errorf("SA %08x is up without a key", sa.SPI)
			}
		}
		moon.stop()
		for _, sa := range sas {
			if !wiped(sa.EncrKey.Reveal()) || !wiped(sa.IntegKey.Reveal()) {
				t.Errorf("SA %08x is gone, its keys are not", sa.SPI)
			}
		}
	})
}
