package datapath

import (
	"net/netip"

	"iked/crypto/suite"
	"iked/sad"
)

// spiSpace are the inbound SAs of one protocol: an SPI names one SA of ESP and
// another one of AH, and with a multicast group as destination another one for
// each group (RFC 4301, Section 4.1).
type spiSpace struct {
	sas    sad.Table[inSA]
	spis   sad.SPIs
	groups sad.Groups[inSA] // by destination too
}

// find is the SA of a packet with an SPI to dst from src.
func (s *spiSpace) find(spi uint32, dst, src netip.Addr) *inSA {
	if dst.IsMulticast() {
		return s.groups.Get(spi, dst, src)
	}
	return s.sas.Get(spi)
}

// add takes an inbound SA in; the SPI of one that is not of a group must be free.
func (s *spiSpace) add(id sad.ID, x *inSA) error {
	if id.Dst.IsMulticast() {
		return s.groups.Put(groupKey(id), x)
	}
	if err := s.spis.Use(id.SPI); err != nil {
		return err
	}
	if err := s.sas.Put(id.SPI, x); err != nil {
		s.spis.Free(id.SPI)
		return err
	}
	return nil
}

func (s *spiSpace) remove(id sad.ID) {
	if id.Dst.IsMulticast() {
		s.groups.Delete(groupKey(id))
		return
	}
	s.sas.Delete(id.SPI)
	s.spis.Free(id.SPI)
}

func groupKey(id sad.ID) sad.GroupKey {
	return sad.GroupKey{SPI: id.SPI, Dst: id.Dst, Src: id.Sender}
}

// space is that of a protocol, which is ESP or AH.
func (d *Datapath) space(proto suite.Protocol) *spiSpace {
	if proto == suite.ProtoAH {
		return &d.inboundAH
	}
	return &d.inboundESP
}
