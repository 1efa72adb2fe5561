package backendtest

import (
	"fmt"

	"iked/crypto/aead"
	"iked/crypto/integ"
	"iked/crypto/suite"
	"iked/spd"
)

// Cell is one kind of SA that a matrix carries packets through.
type Cell struct {
	Proto suite.Protocol
	Mode  spd.Mode
	// Inner and Outer are the families, 4 or 6, of the packets and of the header that
	// crosses the wire. They are one in transport mode.
	Inner, Outer int
	Algorithm
	ESN bool
}

// Algorithm is what protects; Encr is the zero Transform for AH, Integ for a
// combined-mode cipher.
type Algorithm struct{ Encr, Integ suite.Transform }

func (a Algorithm) String() string {
	switch {
	case a.Encr == (suite.Transform{}):
		return a.Integ.String()
	case a.Integ == (suite.Transform{}):
		return a.Encr.String()
	}
	return a.Encr.String() + "/" + a.Integ.String()
}

// KeyLens are the octets of both keys.
func (a Algorithm) KeyLens() (encr, integrity int, err error) {
	if a.Encr == (suite.Transform{}) {
		integrity, _, err = integ.Lens(a.Integ.ID)
		return 0, integrity, err
	}
	return aead.KeyLens(a.Encr, a.Integ)
}

func encr(id, bits uint16) suite.Transform {
	return suite.Transform{Type: suite.ENCR, ID: id, KeyBits: bits}
}

func mac(id uint16) suite.Transform { return suite.Transform{Type: suite.INTEG, ID: id} }

// ESPAlgorithms are those of ESP: one of each mode of operation, and what only old
// peers have.
var ESPAlgorithms = []Algorithm{
	{Encr: encr(suite.EncrAESGCM16, 128)},
	{Encr: encr(suite.EncrAESCBC, 256), Integ: mac(suite.IntegHMACSHA256)},
	{Encr: encr(suite.EncrAESCTR, 128), Integ: mac(suite.IntegHMACSHA256)},
	{Encr: encr(suite.EncrChaCha20Poly1305, 0)},
	{Encr: encr(suite.EncrNull, 0), Integ: mac(suite.IntegHMACSHA256)},
	{Encr: encr(suite.EncrNullAESGMAC, 128)},
	{Encr: encr(suite.Encr3DES, 0), Integ: mac(suite.IntegHMACSHA1_96)},
}

// AHAlgorithms are those of AH.
var AHAlgorithms = []Algorithm{
	{Integ: mac(suite.IntegHMACSHA1_96)},
	{Integ: mac(suite.IntegHMACSHA256)},
	{Integ: mac(suite.IntegHMACSHA384)},
	{Integ: mac(suite.IntegHMACSHA512)},
}

// OtherESP and OtherAH are the other key lengths, lengths of the ICV and hashes. They
// do not depend on the mode, so that one way is enough for them.
var (
	OtherESP = []Algorithm{
		{Encr: encr(suite.EncrAESGCM16, 192)}, {Encr: encr(suite.EncrAESGCM16, 256)},
		{Encr: encr(suite.EncrAESGCM12, 128)}, {Encr: encr(suite.EncrAESGCM8, 256)},
		{Encr: encr(suite.EncrAESCBC, 128), Integ: mac(suite.IntegHMACSHA1_96)},
		{Encr: encr(suite.EncrAESCBC, 192), Integ: mac(suite.IntegHMACSHA384)},
		{Encr: encr(suite.EncrAESCBC, 256), Integ: mac(suite.IntegHMACSHA512)},
		{Encr: encr(suite.EncrAESCBC, 128), Integ: mac(suite.IntegHMACSHA256_96)},
		{Encr: encr(suite.EncrAESCTR, 256), Integ: mac(suite.IntegHMACSHA512)},
		{Encr: encr(suite.EncrNullAESGMAC, 256)},
	}
	OtherAH = []Algorithm{{Integ: mac(suite.IntegHMACSHA256_96)}}
)

// way is a mode with its families.
type way struct {
	mode         spd.Mode
	inner, outer int
}

func (w way) String() string {
	name := [...]string{spd.Tunnel: "tunnel", spd.Transport: "transport", spd.BEET: "BEET"}[w.mode]
	if w.mode == spd.Transport {
		return fmt.Sprintf("%s, IPv%d", name, w.inner)
	}
	return fmt.Sprintf("%s, IPv%d in IPv%d", name, w.inner, w.outer)
}

var ways = []way{
	{spd.Transport, 4, 4}, {spd.Transport, 6, 6},
	{spd.Tunnel, 4, 4}, {spd.Tunnel, 6, 6}, {spd.Tunnel, 4, 6}, {spd.Tunnel, 6, 4},
	{spd.BEET, 4, 4}, {spd.BEET, 6, 6}, {spd.BEET, 4, 6}, {spd.BEET, 6, 4},
}

// Way is the mode of the cell with its families, in words.
func (c Cell) Way() string { return way{c.Mode, c.Inner, c.Outer}.String() }

// Protection is the protocol with its algorithm and numbers, in words.
func (c Cell) Protection() string {
	s := c.Proto.String() + " " + c.Algorithm.String()
	if c.ESN {
		s += " ESN"
	}
	return s
}

func (c Cell) String() string { return c.Way() + ", " + c.Protection() }

// Cells is the whole matrix. AH has no BEET mode: the draft defines it for ESP
// (draft-nikander-esp-beet-mode-09, Section 1).
func Cells() []Cell {
	var list []Cell
	for _, w := range ways {
		add := func(proto suite.Protocol, algs []Algorithm) {
			for _, a := range algs {
				for _, esn := range []bool{false, true} {
					list = append(list, Cell{Proto: proto, Mode: w.mode, Inner: w.inner, Outer: w.outer, Algorithm: a, ESN: esn})
				}
			}
		}
		add(suite.ProtoESP, ESPAlgorithms)
		if w.mode != spd.BEET {
			add(suite.ProtoAH, AHAlgorithms)
		}
		if w == (way{spd.Tunnel, 4, 4}) {
			add(suite.ProtoESP, OtherESP)
			add(suite.ProtoAH, OtherAH)
		}
	}
	return list
}
