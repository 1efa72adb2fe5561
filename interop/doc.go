// Package interop holds tests against systems that were not written here.
//
// What is not a test in it is the harness: Debian's strongSwan in a network
// namespace, a client of the control protocol that drives it and iked alike, and
// throw-away certification authorities. The tests need root and the Debian
// packages that tools/test.sh installs.
package interop
