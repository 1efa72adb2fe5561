package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"iked/vici/client"
	"iked/vici/wire"
)

// print writes v as JSON, under its name and with the schema version, or calls
// show for text.
func (a *app) print(name string, v any, show func(io.Writer)) error {
	return a.printAll(map[string]any{name: v}, show)
}

// printAll is print for a document of several values.
func (a *app) printAll(doc map[string]any, show func(io.Writer)) error {
	if a.output == "text" {
		show(a.out)
		return nil
	}
	a.printed = true
	doc["schema_version"] = schemaVersion
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}

func (a *app) sas(c *cobra.Command, s *client.Client) ([]saView, error) {
	events, err := stream(c.Context(), s, "list-sas", "list-sa", message("noblock", "yes"))
	if err != nil {
		return nil, err
	}
	all := []saView{}
	for _, e := range events {
		all = append(all, saViews(e)...)
	}
	return all, nil
}

func (a *app) conns(c *cobra.Command, s *client.Client) ([]connView, error) {
	events, err := stream(c.Context(), s, "list-conns", "list-conn", nil)
	if err != nil {
		return nil, err
	}
	all := []connView{}
	for _, e := range events {
		all = append(all, connViews(e)...)
	}
	return all, nil
}

// statusView is the whole picture: the daemon, what is configured, what is up.
type statusView struct {
	Daemon      string     `json:"daemon"`
	Version     string     `json:"version"`
	Backend     string     `json:"backend"`
	BackendWhy  string     `json:"backend_why,omitempty"`
	BackendInfo string     `json:"backend_detail"`
	Since       string     `json:"since"`
	IKESAs      uint64     `json:"ike_sas"`
	HalfOpen    uint64     `json:"half_open"`
	Connections []connView `json:"connections"`
	SAs         []saView   `json:"sas"`
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "What is configured, what is up, and what carries it", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			ver, err := call(c.Context(), s, "version", nil, nil)
			if err != nil {
				return err
			}
			stats, err := call(c.Context(), s, "stats", nil, nil)
			if err != nil {
				return err
			}
			v := statusView{
				Daemon: text(ver, "daemon"), Version: text(ver, "version"),
				Backend:     text(section(stats, "backend"), "name"),
				BackendWhy:  text(section(stats, "backend"), "why"),
				BackendInfo: text(section(stats, "backend"), "detail"),
				Since:       text(section(stats, "uptime"), "since"),
				IKESAs:      number(section(stats, "ikesas"), "total"),
				HalfOpen:    number(section(stats, "ikesas"), "half-open"),
			}
			if v.Connections, err = a.conns(c, s); err != nil {
				return err
			}
			if v.SAs, err = a.sas(c, s); err != nil {
				return err
			}
			markUp(v.Connections, v.SAs)
			return a.print("status", v, func(w io.Writer) { showStatus(w, v) })
		},
	}
}

func showStatus(w io.Writer, v statusView) {
	fmt.Fprintf(w, "%s %s, up since %s\n", v.Daemon, v.Version, v.Since)
	why := ""
	if v.BackendWhy != "" {
		why = ", " + v.BackendWhy
	}
	fmt.Fprintf(w, "backend: %s%s (%s)\n", v.Backend, why, v.BackendInfo)
	fmt.Fprintf(w, "IKE SAs: %d, of which half-open: %d\n", v.IKESAs, v.HalfOpen)
	if len(v.Connections) == 0 {
		fmt.Fprintln(w, "\nno connection is configured")
	}
	for _, c := range v.Connections {
		fmt.Fprintf(w, "\n%s: %s, %s <-> %s\n", c.Name, upDown(c.Up), strings.Join(c.LocalAddrs, " "), strings.Join(c.RemoteAddrs, " "))
		for _, k := range c.Children {
			fmt.Fprintf(w, "  %s: %s, %s, %s === %s\n", k.Name, upDown(k.Up), strings.ToLower(k.Mode), strings.Join(k.LocalTS, " "), strings.Join(k.RemoteTS, " "))
		}
	}
	if len(v.SAs) > 0 {
		fmt.Fprintln(w)
		showSAs(w, v.SAs)
	}
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "DOWN"
}

func (a *app) policiesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "policies", Short: "The policies: traps, what is bypassed, what is dropped", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			events, err := stream(c.Context(), s, "list-policies", "list-policy", message("trap", "yes", "drop", "yes", "pass", "yes"))
			if err != nil {
				return err
			}
			all := []policyView{}
			for _, e := range events {
				all = append(all, policyViews(e)...)
			}
			static, err := statics(c.Context(), s, "static-policies", "static-policy")
			if err != nil {
				return err
			}
			return a.printAll(map[string]any{"policies": all, "static": staticViews(static, policyWords)}, func(w io.Writer) {
				defer showStatic(w, static, policyWords)
				for _, p := range all {
					fmt.Fprintf(w, "%s, %s%s%s\n  local:  %s\n  remote: %s\n", p.Name, p.Mode, reqid(p.ReqID), bound(p.IfID, p.MarkIn, p.MarkOut), strings.Join(p.LocalTS, " "), strings.Join(p.RemoteTS, " "))
				}
			})
		},
	}
}

func reqid(s string) string {
	if s == "" {
		return ""
	}
	return ", reqid " + s
}

func (a *app) connectionsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "connections", Aliases: []string{"conns"}, Short: "The configured connections", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			all, err := a.conns(c, s)
			if err != nil {
				return err
			}
			sas, err := a.sas(c, s)
			if err != nil {
				return err
			}
			markUp(all, sas)
			return a.print("connections", all, func(w io.Writer) {
				for _, v := range all {
					fmt.Fprintf(w, "%s: %s, %s\n", v.Name, v.Version, upDown(v.Up))
					fmt.Fprintf(w, "  local:  %s, %s, id %s\n", strings.Join(v.LocalAddrs, " "), orUnset(v.LocalAuth), orUnset(v.LocalID))
					fmt.Fprintf(w, "  remote: %s, %s, id %s\n", strings.Join(v.RemoteAddrs, " "), orUnset(v.RemoteAuth), orUnset(v.RemoteID))
					if v.Role != "" {
						fmt.Fprintf(w, "  Mobile IPv6: %s\n", strings.Join(append([]string{v.Role}, v.HomeAddresses...), " "))
					}
					if len(v.KMAddress) == 2 {
						fmt.Fprintf(w, "  begins at: %s, %s, as a mobility manager told%s\n", v.KMAddress[0], v.KMAddress[1], note(v.KMAddressUnused != "", ", not used: "+v.KMAddressUnused))
					}
					for _, k := range v.Children {
						fmt.Fprintf(w, "  %s: %s, %s, %s === %s%s\n", k.Name, upDown(k.Up), k.Mode, strings.Join(k.LocalTS, " "), strings.Join(k.RemoteTS, " "),
							note(k.Policies == "no", ", policies of others with reqid "+k.ReqID+note(k.ReqIDIn != "", ", inbound "+k.ReqIDIn)))
					}
				}
			})
		},
	}
}

func orUnset(s string) string {
	if s == "" {
		return "unset"
	}
	return s
}

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain [PEER]", Short: "Why the last negotiations failed, and what to change",
		Long: "Why the last negotiations failed, newest first. PEER is a connection name, an address or an identity.",
		Args: atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			peer := ""
			if len(args) == 1 {
				peer = args[0]
			}
			events, err := stream(c.Context(), s, "explain", "failure", message("peer", peer))
			if err != nil {
				return err
			}
			all := []failureView{}
			for _, e := range events {
				all = append(all, failureOf(e))
			}
			return a.print("failures", all, func(w io.Writer) {
				if len(all) == 0 {
					fmt.Fprintf(w, "no negotiation%s has failed since the daemon started\n", note(peer != "", " with "+peer))
				}
				for _, f := range all {
					showFailure(w, f)
				}
			})
		},
	}
}

func showFailure(w io.Writer, f failureView) {
	name := f.Conn
	if name == "" {
		name = "(no connection)"
	}
	if f.Child != "" {
		name += "/" + f.Child
	}
	role := "responder"
	if f.Initiator {
		role = "initiator"
	}
	fmt.Fprintf(w, "%s  %s  %s -> %s  as %s, at %s\n", f.At, name, f.Local, f.Remote, role, f.Stage)
	fmt.Fprintf(w, "  %s\n", visible(f.Sentence))
	for _, e := range f.Evidence {
		fmt.Fprintf(w, "    %s\n", visible(e))
	}
	if f.Advice != "" {
		fmt.Fprintf(w, "  What to do: %s\n", f.Advice)
	}
}

func (a *app) countersCommand() *cobra.Command {
	var everything bool
	cmd := &cobra.Command{
		Use: "counters", Short: "What happened how often: messages, drops by reason", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			m, err := call(c.Context(), s, "get-counters", nil, nil)
			if err != nil {
				return err
			}
			type set struct {
				name   string
				values wire.Message
			}
			sets := []set{{"ike", section(section(m, "counters"), "")}, {"drops", section(m, "drops")}, {"datapath", section(m, "datapath")}}
			doc := map[string]map[string]uint64{}
			for _, s := range sets {
				doc[s.name] = map[string]uint64{}
				for _, n := range s.values {
					doc[s.name][n.Name] = number(s.values, n.Name)
				}
			}
			return a.print("counters", doc, func(w io.Writer) {
				for _, s := range sets {
					zeros := 0
					fmt.Fprintf(w, "%s:\n", s.name)
					for _, n := range s.values {
						v := number(s.values, n.Name)
						if v == 0 && !everything {
							zeros++
							continue
						}
						fmt.Fprintf(w, "  %-28s %d\n", n.Name, v)
					}
					if zeros > 0 {
						fmt.Fprintf(w, "  (%d more are 0, --all shows them)\n", zeros)
					}
				}
			})
		},
	}
	cmd.Flags().BoolVar(&everything, "all", false, "also those that are 0")
	return cmd
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "The versions of ikectl and of the daemon", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			type versions struct {
				Client string `json:"ikectl"`
				Daemon string `json:"iked"`
			}
			v := versions{Client: version}
			s, err := a.dial(c.Context())
			if err == nil {
				defer s.Close()
				var m wire.Message
				if m, err = call(c.Context(), s, "version", nil, nil); err == nil {
					v.Daemon = text(m, "version")
				}
			}
			if perr := a.print("version", v, func(w io.Writer) {
				fmt.Fprintln(w, "ikectl", v.Client)
				if v.Daemon != "" {
					fmt.Fprintln(w, "iked", v.Daemon)
				}
			}); perr != nil {
				return perr
			}
			return err
		},
	}
}
