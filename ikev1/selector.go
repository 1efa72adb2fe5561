package ikev1

import (
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/spd"
)

func (sa *SA) localTS(c *keyex.ChildConfig) []spd.TS {
	return offer.Resolve(c.Local, sa.local.Addr(), sa.vipLocal)
}
func (sa *SA) remoteTS(c *keyex.ChildConfig) []spd.TS {
	if sa.cfg.ChecksHomes() {
		return sa.cfg.PeerTraffic(c.Remote, sa.remoteID, sa.vipRemote)
	}
	return sa.withinNetworks(offer.Resolve(c.Remote, sa.remote.Addr(), sa.vipRemote))
}

func (sa *SA) pairs(c *keyex.ChildConfig) [][2]spd.TS {
	return offer.Pairs(sa.localTS(c), sa.remoteTS(c))
}
