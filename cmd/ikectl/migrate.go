package main

import "github.com/spf13/cobra"

// migrateCommand tells the daemon where SAs go on, for mobility managers without the
// kernel's MIGRATE.
func (a *app) migrateCommand() *cobra.Command {
	c := a.wordsCommand("migrate", "migrate", "Move SAs to other addresses")
	c.Long = `Move SAs to other addresses without a word to the peer, which hears of it in its own way. Its
IKE SA goes on between ike_local and ike_remote, or, when they are left out, at the ends of the
tunnel. The SAs are those that are between the old addresses, in the direction dir (out, in or
fwd, seen from here):

  ikectl migrate old_src=192.0.2.1 old_dst=198.51.100.2 new_src=203.0.113.1 new_dst=198.51.100.2

With ike_local and ike_remote, connections whose children the request is about begin there from
now on, also when there is no SA yet.

Further words: dir, proto (esp, ah), mode (tunnel, beet, transport), reqid, src_ts, dst_ts, ike_local, ike_remote.`
	return c
}
