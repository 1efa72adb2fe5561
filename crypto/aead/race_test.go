//go:build race

package aead

// The race detector drops items of a sync.Pool at random.
const raceEnabled = true
