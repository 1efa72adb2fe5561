package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) sasCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sas", Short: "The IKE SAs and their CHILD_SAs", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			all, err := a.sas(c, s)
			if err != nil {
				return err
			}
			static, err := statics(c.Context(), s, "static-sas", "static-sa")
			if err != nil {
				return err
			}
			return a.printAll(map[string]any{"sas": all, "static": staticViews(static, saWords)}, func(w io.Writer) {
				showSAs(w, all)
				showStatic(w, static, saWords)
			})
		},
	}
}

func showSAs(w io.Writer, all []saView) {
	for i, v := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		mine, theirs := "", "*"
		if v.Initiator {
			mine, theirs = "*", ""
		}
		if v.Version == "kink" {
			// There are no SPIs: KINK has no SA of its own.
			fmt.Fprintf(w, "%s: #%d, %s, KINK\n", v.Name, v.ID, v.State)
		} else {
			fmt.Fprintf(w, "%s: #%d, %s, IKEv%s, %s_i%s %s_r%s\n", v.Name, v.ID, v.State, v.Version, v.SPIInitiator, mine, v.SPIResponder, theirs)
		}
		fmt.Fprintf(w, "  local  '%s' @ %s[%s]%s%s\n", v.Local.ID, v.Local.Address, v.Local.Port, note(v.NATLocal, " behind NAT"), vips(v.LocalVIPs))
		fmt.Fprintf(w, "  remote '%s' @ %s[%s]%s%s\n", v.Remote.ID, v.Remote.Address, v.Remote.Port, note(v.NATRemote, " behind NAT"), vips(v.RemoteVIPs))
		if v.User != "" {
			fmt.Fprintf(w, "  user %q\n", v.User)
		}
		if v.Banner != "" {
			fmt.Fprintf(w, "  the peer says: %s\n", v.Banner)
		}
		if v.Domain != "" || len(v.Networks) > 0 {
			fmt.Fprintf(w, "  the peer has networks [%s], domain %q\n", strings.Join(v.Networks, " "), v.Domain)
		}
		if len(v.HomePrefixes)+len(v.HomeAgent) > 0 {
			fmt.Fprintf(w, "  home link [%s], home agent [%s]\n", strings.Join(v.HomePrefixes, " "), strings.Join(v.HomeAgent, " "))
		}
		if v.Proposal.Encryption != "" {
			fmt.Fprintf(w, "  %s\n", v.Proposal)
		}
		if v.Established != nil {
			fmt.Fprintf(w, "  established %s ago%s%s\n", span(*v.Established), in("rekeying", v.RekeyIn), in("reauthentication", v.ReauthIn))
		}
		if len(v.TasksQueued)+len(v.TasksActive) > 0 {
			fmt.Fprintf(w, "  tasks: active %s, queued %s\n", strings.Join(v.TasksActive, " "), strings.Join(v.TasksQueued, " "))
		}
		for _, k := range v.Children {
			showChild(w, k)
		}
	}
}

func showChild(w io.Writer, k childView) {
	encap := ""
	if k.UDPEncap {
		encap = " in UDP"
	}
	if k.CPIIn != "" {
		encap += ", compressed"
	}
	fmt.Fprintf(w, "  %s: #%d, reqid %d%s, %s, %s%s, %s:%s%s%s\n", k.Name, k.ID, k.ReqID, note(k.ReqIDIn != "", ", inbound "+k.ReqIDIn), k.State, k.Mode, encap, k.Protocol, k.Algorithms, note(k.Algorithms.ESN, ", ESN"), bound(k.IfID, k.MarkIn, k.MarkOut))
	mtu := ""
	if k.MTU != nil {
		mtu = fmt.Sprintf(", inner MTU %d", *k.MTU)
	}
	if k.Installed != nil {
		fmt.Fprintf(w, "    installed %s ago%s%s%s\n", span(*k.Installed), in("rekeying", k.RekeyIn), in("expires", k.ExpiresIn), mtu)
	}
	fmt.Fprintf(w, "    in  %s %s\n    out %s %s\n", k.SPIIn, k.In, k.SPIOut, k.Out)
	if a := k.AH; a != nil {
		refused := trafView{Replayed: a.Replayed, BadICV: a.BadICV}
		fmt.Fprintf(w, "    in AH:%s%s, in %s, out %s%s\n", a.Integrity, note(a.ESN, ", ESN"), a.SPIIn, a.SPIOut, refused.refusals())
	}
	fmt.Fprintf(w, "    %s === %s\n", strings.Join(k.LocalTS, " "), strings.Join(k.RemoteTS, " "))
}

// String is the algorithms as encryption/integrity/PRF/key exchange.
func (v algView) String() string {
	s := v.Encryption
	if v.EncryptionBits != "" {
		s += "-" + v.EncryptionBits
	}
	for _, x := range []string{v.Integrity, v.PRF, v.KE} {
		if x != "" {
			s += "/" + x
		}
	}
	return s
}

// String is the traffic of one direction.
func (v trafView) String() string {
	s := fmt.Sprintf("%6d bytes, %5d packets", v.Bytes, v.Packets)
	if v.LastUse != nil {
		s += fmt.Sprintf(", %s ago", span(*v.LastUse))
	}
	return s + v.refusals()
}

// refusals are the packets that were refused, if there are any.
func (v trafView) refusals() (s string) {
	if v.Replayed > 0 {
		s += fmt.Sprintf(", %d replayed", v.Replayed)
	}
	if v.BadICV > 0 {
		s += fmt.Sprintf(", %d not authentic", v.BadICV)
	}
	return s
}

func note(b bool, s string) string {
	if b {
		return s
	}
	return ""
}

func vips(l []string) string {
	if len(l) == 0 {
		return ""
	}
	return " [" + strings.Join(l, " ") + "]"
}

func in(what string, seconds *int64) string {
	if seconds == nil {
		return ""
	}
	return fmt.Sprintf(", %s in %s", what, span(*seconds))
}

func span(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }
