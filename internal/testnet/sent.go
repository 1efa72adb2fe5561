package testnet

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Sent records what leaves the ends of a link, and so all that is on it. A capture
// in both directions also has what a kernel that opens ESP hands to its own stack,
// as if it had arrived on the same interface.
func Sent(ends ...End) (*SentCapture, error) {
	s := &SentCapture{}
	for _, e := range ends {
		c, err := e.NS.capture(e.If, outgoing)
		if err != nil {
			s.Stop()
			return nil, err
		}
		s.ends = append(s.ends, c)
	}
	return s, nil
}

// SentCapture are the captures of Sent.
type SentCapture struct{ ends []*Capture }

// Stop ends the recording. Closing a packet socket takes the kernel a while, so it
// is done at all ends at once.
func (s *SentCapture) Stop() {
	var wg sync.WaitGroup
	for _, c := range s.ends {
		wg.Go(c.Stop)
	}
	wg.Wait()
}

// Counts are the frames by class.
func (s *SentCapture) Counts() map[Class]int {
	sum := map[Class]int{}
	for _, c := range s.ends {
		for class, n := range c.Counts() {
			sum[class] += n
		}
	}
	return sum
}

// ClearText are the packets that are neither IPsec nor housekeeping.
func (s *SentCapture) ClearText() []Packet {
	return slices.DeleteFunc(s.Packets(), func(p Packet) bool { return p.Class.IPsec() || p.Class.Housekeeping() })
}

// Packets are those of all ends, in the order in which they left.
func (s *SentCapture) Packets() (list []Packet) {
	for _, c := range s.ends {
		list = append(list, c.Packets()...)
	}
	slices.SortStableFunc(list, func(a, b Packet) int { return a.Time.Compare(b.Time) })
	return list
}

// Err tells why a recording ended by itself.
func (s *SentCapture) Err() (err error) {
	for _, c := range s.ends {
		err = errors.Join(err, c.Err())
	}
	return err
}

// String is Counts on one line for each end.
func (s *SentCapture) String() string {
	line := ""
	for i, c := range s.ends {
		line += fmt.Sprintf("[end %d: %v]", i, c)
	}
	return line
}

// outgoing lets a packet socket take in what is sent only.
//
//	ldb  pkttype        the kernel's word on the direction
//	jeq  outgoing, +0, +1
//	ret  all
//	ret  nothing
var outgoing = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 0xfffff004}, // SKF_AD_OFF + SKF_AD_PKTTYPE
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.PACKET_OUTGOING},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
	{Code: unix.BPF_RET | unix.BPF_K},
}
