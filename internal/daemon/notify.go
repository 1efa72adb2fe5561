package daemon

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// notifier tells the service manager how the daemon does (sd_notify(3)). The zero
// value tells nobody.
type notifier struct{ addr *net.UnixAddr }

func newNotifier() notifier {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" || (name[0] != '/' && name[0] != '@') {
		return notifier{}
	}
	return notifier{&net.UnixAddr{Name: name, Net: "unixgram"}}
}

// send is best effort: a service manager that does not listen costs nothing.
func (n notifier) send(state string) {
	if n.addr == nil {
		return
	}
	c, err := net.DialUnix("unixgram", nil, n.addr)
	if err != nil {
		return
	}
	defer c.Close()
	c.Write([]byte(state))
}

// reloading carries the time stamp that Type=notify-reload asks for.
func (n notifier) reloading() {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return
	}
	n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", t.Nano()/1000))
}
