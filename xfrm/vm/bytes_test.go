package vm

import (
	"bytes"
	"encoding/binary"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/xfrm"
	"iked/xfrm/wire"
)

// dump gives the messages of a table as the kernel sends them.
func dump(t *testing.T, ns *testnet.Namespace, typ wire.Type) (list []wire.Raw) {
	t.Helper()
	must(t, ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		req := wire.AppendMessage(nil, wire.Header{Type: typ, Flags: wire.FlagRequest | wire.FlagDump, Seq: 1}, nil)
		if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for {
			buf := make([]byte, 1<<16)
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return err
			}
			for m, err := range wire.Messages(buf[:n]) {
				if err != nil || m.Type == wire.DoneType || m.Type == wire.ErrorType {
					return err
				}
				list = append(list, m)
			}
		}
	}))
	return list
}

// sorted puts the attributes behind a structure into the order of their numbers,
// which the kernel does not keep.
func sorted(t *testing.T, b []byte, structure int) []byte {
	t.Helper()
	var attrs [][]byte
	for rest := b[structure:]; len(rest) >= 4; {
		n := (int(binary.NativeEndian.Uint16(rest)) + 3) &^ 3
		if n < 4 || n > len(rest) {
			t.Fatalf("attribute of %d octets in %d", n, len(rest))
		}
		attrs = append(attrs, rest[:n])
		rest = rest[n:]
	}
	sort.SliceStable(attrs, func(i, j int) bool {
		return binary.NativeEndian.Uint16(attrs[i][2:]) < binary.NativeEndian.Uint16(attrs[j][2:])
	})
	return append(bytes.Clone(b[:structure]), bytes.Join(attrs, nil)...)
}

// What the kernel has is written octet by octet as it was read, whether the ip
// command made it or the backend; and ip reads what the backend made.
func TestBytesOfTheKernel(t *testing.T) {
	uml.Require(t)
	ns := namespace(t)
	foreign(t, ns)
	key := func(n int) string { return "0x" + strings.Repeat("5a", n) }
	for _, args := range []string{
		"xfrm state add src 192.0.2.7 dst 192.0.2.8 proto esp spi 0x2001 reqid 3 mode transport enc cbc(aes) " + key(16) + " auth-trunc hmac(sha256) " + key(32) + " 128 replay-window 32 sel src 192.0.2.7 dst 192.0.2.8 proto udp sport 500 dport 4500",
		"xfrm state add src 192.0.2.7 dst 192.0.2.8 proto esp spi 0x2002 reqid 3 mode tunnel flag esn replay-window 128 aead rfc4106(gcm(aes)) " + key(20) + " 128 encap espinudp 4500 4501 0.0.0.0 mark 5 mask 255 output-mark 6",
		"xfrm state add src 2001:db8::1 dst 2001:db8::2 proto ah spi 0x2003 mode tunnel auth-trunc hmac(sha1) " + key(20) + " 96 limit byte-hard 5000 limit time-soft 30",
		"xfrm state add src 192.0.2.7 dst 192.0.2.8 proto esp spi 0x2004 mode beet enc cbc(aes) " + key(16) + " auth-trunc hmac(sha512) " + key(64) + " 256 sel src 10.1.1.1 dst 10.2.2.2",
		"xfrm policy add src 2001:db8::/64 dst 2001:db8:1::/64 proto ipv6-icmp type 128 dir in priority 5 mark 1 tmpl src 2001:db8::2 dst 2001:db8::1 proto ah reqid 4 mode tunnel tmpl proto esp mode transport",
		"xfrm policy add src 10.0.0.0/8 dst 11.0.0.0/8 dir fwd action block if_id 9",
	} {
		ip(t, ns, strings.Fields(args)...)
	}
	b := open(t, ns, xfrm.Options{})
	install(t, b, 0x1000)
	for _, x := range []struct {
		ask, get  wire.Type
		structure int
		least     int
	}{{wire.GetSA, wire.NewSA, 224, 7}, {wire.GetPolicy, wire.NewPolicy, 168, 6}} {
		list := dump(t, ns, x.ask)
		if len(list) < x.least {
			t.Errorf("%v: %d messages, expected at least %d", x.ask, len(list), x.least)
		}
		for _, raw := range list {
			m, err := wire.Parse(raw.Type, raw.Body)
			if err != nil || raw.Type != x.get {
				t.Errorf("%v: %v\n%x", raw.Type, err, raw.Body)
				continue
			}
			got, want := sorted(t, m.Append(nil), x.structure), sorted(t, raw.Body, x.structure)
			if !bytes.Equal(got, want) {
				t.Errorf("%v:\n%x, the kernel sent\n%x", raw.Type, got, want)
			}
		}
	}
	states, policies := ip(t, ns, "xfrm", "state", "list", "reqid", "7"), ip(t, ns, "xfrm", "policy", "list", "dir", "out")
	for _, x := range [][2]string{
		{states, "src 192.0.2.1 dst 192.0.2.2\n\tproto esp spi 0x00001001 reqid 7 mode tunnel"},
		{states, "replay_window 1024"},
		{policies, "tmpl src 192.0.2.1 dst 192.0.2.2\n\t\tproto esp reqid 7 mode tunnel"},
	} {
		if !strings.Contains(x[0], x[1]) {
			t.Errorf("ip does not say %q:\n%s", x[1], x[0])
		}
	}
}
