package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/transport/batch"
)

// marked makes a dialer whose packets go beside the tunnels, as the daemon's own
// do: a name server behind a tunnel that is down could never be asked otherwise, and
// asking for a route would ask for the tunnel.
// Without the privilege the packets go as any other's.
func marked(mark uint32) *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, Control: func(network, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
			family := unix.AF_INET
			if strings.HasSuffix(network, "6") {
				family = unix.AF_INET6
			}
			batch.BypassIPsec(int(fd), family)
		})
	}}
}

func markedResolver(mark uint32) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return marked(mark).DialContext(ctx, network, address)
	}}
}

// markedRoutes asks the kernel for the own address towards a peer, by the routes
// that the daemon's own packets take.
type markedRoutes struct{ mark uint32 }

// LocalFor implements engine.Routes. Connecting a UDP socket sends nothing.
func (r markedRoutes) LocalFor(remote netip.Addr) (netip.Addr, error) {
	c, err := marked(r.mark).Dial("udp", netip.AddrPortFrom(remote, 500).String())
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return netip.Addr{}, err
	}
	defer c.Close()
	a := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
	return a, nil
}

// whoHas names the processes that hold UDP ports, as far as /proc tells.
func whoHas(ports ...uint16) string {
	inodes := make(map[string]uint16)
	for _, file := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			col := strings.Fields(s.Text())
			if len(col) < 10 {
				continue
			}
			_, hex, _ := strings.Cut(col[1], ":")
			p, err := strconv.ParseUint(hex, 16, 16)
			if err != nil {
				continue
			}
			for _, want := range ports {
				if want == uint16(p) {
					inodes["socket:["+col[9]+"]"] = want
				}
			}
		}
		f.Close()
	}
	var out []string
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		port, ok := inodes[link]
		if !ok {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		comm, _ := os.ReadFile("/proc/" + pid + "/comm")
		s := fmt.Sprintf("port %d is held by %s (process %s)", port, strings.TrimSpace(string(comm)), pid)
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return "who holds the port cannot be told"
	}
	return strings.Join(out, ", ")
}
