package engine

import (
	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/sad"
	"iked/spd"
)

// around is what a CHILD_SA has in the backend beside ESP: the AH around it (RFC
// 4301, Appendix E). IDs are zero where nothing is installed.
type around struct {
	reqid       uint32
	inID, outID sad.ID
}

// addAround installs one direction of the AH around a child's ESP, if there is one.
// Its selectors are those of the child: they say which traffic it is for.
func (s *shard) addAround(c *childSA, dir sad.Direction) error {
	a := c.child.AH
	if a == nil {
		return nil
	}
	sa := s.saOf(c, dir)
	sa.Proto, sa.Mode, sa.ReqID = suite.ProtoAH, spd.Transport, c.around.reqid
	sa.Encr, sa.EncrKey, sa.TFCPadding, sa.CPI = suite.Transform{}, secret.Bytes{}, 0, 0
	sa.Integ, sa.ESN = a.Integ, a.ESN
	id := &c.around.outID
	sa.SPI, sa.IntegKey = a.SPIOut, a.IntegOut
	if dir == sad.In {
		id = &c.around.inID
		sa.SPI, sa.IntegKey = a.SPIIn, a.IntegIn
	}
	if err := s.add(c, sa); err != nil {
		return err
	}
	*id = sa.ID
	return nil
}

// removeAround takes directions of it out of the backend.
func (s *shard) removeAround(c *childSA, in, out bool) {
	if id := c.around.outID; out && id != (sad.ID{}) {
		c.around.outID = sad.ID{}
		s.remove(c, id)
	}
	if id := c.around.inID; in && id != (sad.ID{}) {
		c.around.inID = sad.ID{}
		s.remove(c, id)
	}
}

// moveAround changes its outer addresses.
func (s *shard) moveAround(c *childSA, in, out backend.Move) {
	for _, x := range []struct {
		id *sad.ID
		to backend.Move
	}{{&c.around.inID, in}, {&c.around.outID, out}} {
		if *x.id == (sad.ID{}) {
			continue
		}
		id, err := s.e.opt.Backend.UpdateSA(*x.id, x.to)
		if err != nil {
			s.e.warnf(trace.KNL, "an SA of AH of %s/%s cannot be moved: %v", c.conn, c.name(), err)
			continue
		}
		*x.id = id
	}
}

// ahInfo is what people are told of it; nil: there is none.
func (s *shard) ahInfo(c *childSA) *AHInfo {
	a := c.child.AH
	if a == nil {
		return nil
	}
	info := &AHInfo{SPIIn: a.SPIIn, SPIOut: a.SPIOut, Integ: a.Integ, ESN: a.ESN}
	if c.around.inID != (sad.ID{}) {
		if u, err := s.e.opt.Backend.QuerySA(c.around.inID); err == nil {
			info.Replayed, info.BadICV = u.Replayed, u.BadICV
		}
	}
	return info
}
