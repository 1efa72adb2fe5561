package ikev2test

import (
	"fmt"

	"iked/ikev2"
	"iked/internal/trace"
)

var failureOfVerify = trace.Failure{Stage: trace.StageAuth, Sentence: "the signature does not fit"}

// Consistent checks that two hosts agree: one IKE SA each and the same one,
// want CHILD_SAs on it (below 0: as many as a has), installed in both directions with the same keys, and
// nothing else in either backend. It is meant for a network at rest.
func Consistent(a, b *Host, want int) error {
	sa, sb := a.SA(), b.SA()
	if sa == nil || sb == nil || len(a.SAs) != 1 || len(b.SAs) != 1 {
		return fmt.Errorf("one IKE SA expected on each side, found %s and %s", describe(a), describe(b))
	}
	if sa.SPIi() != sb.SPIi() || sa.SPIr() != sb.SPIr() || sa.Initiator() == sb.Initiator() {
		return fmt.Errorf("the sides have different IKE SAs: %s and %s", describe(a), describe(b))
	}
	if want < 0 {
		want = len(sa.Children())
	}
	for _, h := range []*Host{a, b} {
		n := 0
		for _, c := range h.SAs[0].Children() {
			if c.State != ikev2.ChildInstalled {
				return fmt.Errorf("%s: child %08x is %v", h.Name, c.SPIIn, c.State)
			}
			n++
		}
		if n != want || len(h.In) != want || len(h.Out) != want || len(h.Reserved) != 0 {
			return fmt.Errorf("%s: %d children, %d inbound and %d outbound SAs, %d reserved SPIs, expected %d, %d, %d and 0",
				h.Name, n, len(h.In), len(h.Out), len(h.Reserved), want, want, want)
		}
	}
	for _, c := range sa.Children() {
		var d *ikev2.Child
		for _, x := range sb.Children() {
			if x.SPIIn == c.SPIOut && x.SPIOut == c.SPIIn {
				d = x
			}
		}
		if d == nil {
			return fmt.Errorf("child %08x of %s has no half on %s", c.SPIIn, a.Name, b.Name)
		}
		if !c.EncrOut.Equal(d.EncrIn) || !c.EncrIn.Equal(d.EncrOut) || !c.IntegOut.Equal(d.IntegIn) || !c.IntegIn.Equal(d.IntegOut) ||
			c.EncrOut.Len()+c.IntegOut.Len() == 0 || c.EncrOut.Len() > 0 && c.EncrOut.Equal(c.EncrIn) {
			return fmt.Errorf("child %08x of %s has other keys on %s", c.SPIIn, a.Name, b.Name)
		}
		if fmt.Sprint(c.Local, c.Remote) != fmt.Sprint(d.Remote, d.Local) {
			return fmt.Errorf("child %08x of %s has other selectors on %s", c.SPIIn, a.Name, b.Name)
		}
	}
	return nil
}

func describe(h *Host) string {
	s := h.Name + "["
	for _, sa := range h.SAs {
		s += fmt.Sprintf(" %x_i:%x_r %v", sa.SPIi(), sa.SPIr(), sa.State())
	}
	return s + " ]"
}
