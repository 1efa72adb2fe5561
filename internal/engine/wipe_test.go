package engine

import (
	"bytes"
	"testing"
	"time"

	"iked/internal/secret"
)

// The keys of a CHILD_SA are overwritten when its last SA left the backend, and
// not before.
func TestKeysAreWiped(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		info := moon.sas()[0].Children[0]
		ch := moon.e.children.get(uint64(info.UniqueID)).child
		keys := map[string]secret.Bytes{"in": ch.EncrIn, "out": ch.EncrOut}
		wiped := func(k secret.Bytes) bool { return bytes.Equal(k.Reveal(), make([]byte, k.Len())) }
		for dir, k := range keys {
			if k.Len() == 0 || wiped(k) {
				t.Errorf("%s: the SA is up without a key", dir)
			}
		}
		moon.stop()
		for dir, k := range keys {
			if !wiped(k) {
				t.Errorf("%s: the SA is gone, its key is not", dir)
			}
		}
	})
}
