//go:build !race

package ikev2_test

const raceEnabled = false
