package mip6

import (
	"fmt"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/xfrm/wire"
)

// request is one to the kernel, and in words what it is about.
type request struct {
	typ  wire.Type
	m    wire.Message
	what string
}

// ask makes requests in a namespace, one after the other, to the first that is refused.
func ask(ns *testnet.Namespace, list ...request) error {
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &answerTime); err != nil {
			return err
		}
		buf := make([]byte, 8192)
		for i, r := range list {
			b := wire.AppendMessage(nil, wire.Header{Type: r.typ, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK, Seq: uint32(i + 1)}, r.m)
			if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return err
			}
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return err
			}
			for raw, err := range wire.Messages(buf[:n]) {
				if err != nil {
					return err
				}
				ack, err := wire.ParseAck(raw.Header, raw.Body)
				if err != nil {
					return err
				}
				if ack.Errno != 0 {
					return fmt.Errorf("mip6: %s: %s: %w %s", ns.Name, r.what, unix.Errno(ack.Errno), ack.Text)
				}
			}
		}
		return nil
	})
}
