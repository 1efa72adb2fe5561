package engine

import "net/netip"

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// anyV4 asks for any IPv4 address.
var anyV4 = []netip.Addr{netip.IPv4Unspecified()}
