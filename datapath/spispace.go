package datapath

import (
	"iked/crypto/suite"
	"iked/sad"
)

// spiSpace are the inbound SAs of one protocol: an SPI names one SA of ESP and
// another one of AH (RFC 4301, Section 4.1).
type spiSpace struct {
	sas  sad.Table[inSA]
	spis sad.SPIs
}

// space is that of a protocol, which is ESP or AH.
func (d *Datapath) space(proto suite.Protocol) *spiSpace {
	if proto == suite.ProtoAH {
		return &d.inboundAH
	}
	return &d.inboundESP
}
