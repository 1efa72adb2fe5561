package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"iked/vici/client"
	"iked/vici/wire"
)

// verdictView is the JSON of a command that steers.
type verdictView struct {
	Command string   `json:"command"`
	Success bool     `json:"success"`
	Reason  string   `json:"reason,omitempty"`
	Matches *int64   `json:"matches,omitempty"`
	ReqID   string   `json:"reqid,omitempty"`
	Plan    []string `json:"plan,omitempty"`
}

// operate runs one command that steers and tells its verdict. With progress the
// daemon's records of the operation are shown as they come, in text output.
func (a *app) operate(c *cobra.Command, cmd string, in wire.Message, progress bool) error {
	s, err := a.dial(c.Context())
	if err != nil {
		return err
	}
	defer s.Close()
	var on client.OnEvent
	if progress && a.output == "text" {
		if err := s.Register(c.Context(), "control-log", nil); err != nil {
			return reachable(c.Context(), err)
		}
		on = func(_ string, m wire.Message) { a.logLine(time.Now(), m) }
	}
	m, err := call(c.Context(), s, cmd, in, on)
	v := verdictView{Command: c.Name(), Success: err == nil, Matches: maybe(m, "matches"), Plan: list(m, "plan"), ReqID: text(m, "reqid")}
	if err != nil {
		v.Reason = err.Error()
	}
	perr := a.print("result", v, func(w io.Writer) {
		for _, l := range v.Plan {
			fmt.Fprintln(w, l)
		}
		if v.ReqID != "" {
			fmt.Fprintln(w, "reqid", v.ReqID)
		} else if v.Success && len(v.Plan) == 0 {
			fmt.Fprintln(w, done(cmd, in))
		}
	})
	return errors.Join(err, perr)
}

// done is what a command that steers says when it succeeded and had nothing else
// to say.
func done(cmd string, in wire.Message) string {
	switch {
	case cmd == "reload" && in.Bool("dry-run", false):
		return "nothing would change"
	case cmd == "reload":
		return "nothing changed"
	case cmd == "rekey":
		return "started" // the daemon does not wait for its end
	}
	return "done"
}

// logRecord is the JSON of one record of the log, one document a line.
type logRecord struct {
	SchemaVersion int    `json:"schema_version"`
	At            string `json:"at"`
	Group         string `json:"group"`
	Level         uint64 `json:"level"`
	Connection    string `json:"connection,omitempty"`
	ID            uint64 `json:"id,omitempty"`
	Message       string `json:"message"`
}

func (a *app) logLine(at time.Time, m wire.Message) {
	msg, _ := m.Bytes("msg") // not Text: names of peers may be in any script
	r := logRecord{
		SchemaVersion: schemaVersion, At: at.UTC().Format(time.RFC3339Nano),
		Group: text(m, "group"), Level: number(m, "level"),
		Connection: text(m, "ikesa-name"), ID: number(m, "ikesa-uniqueid"), Message: string(msg),
	}
	if a.output == "json" {
		a.printed = true
		json.NewEncoder(a.out).Encode(r)
		return
	}
	name := ""
	if r.Connection != "" {
		name = fmt.Sprintf(" %s #%d:", r.Connection, r.ID)
	}
	fmt.Fprintf(a.out, "%s [%s]%s %s\n", at.Format("15:04:05.000"), r.Group, name, visible(r.Message))
}

// visible replaces control characters, which a peer may have put into its
// identity: the terminal must not obey them.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, s)
}

// target splits "connection/child" or takes the name of either.
type target struct {
	ike, child bool
	timeout    time.Duration
}

func (t *target) flags(c *cobra.Command) {
	c.Flags().BoolVar(&t.ike, "ike", false, "NAME is a connection")
	c.Flags().BoolVar(&t.child, "child", false, "NAME is a child")
	c.PreRunE = func(*cobra.Command, []string) error {
		if t.ike && t.child {
			return usageError{errors.New("NAME cannot be both: give --ike or --child")}
		}
		return nil
	}
}

// resolve says which keys select what the user named: "conn/child", a
// connection, or a child. Without a flag the daemon's configuration decides.
func (t *target) resolve(ctx context.Context, s *client.Client, name string) (ike, child string, err error) {
	if conn, kid, ok := strings.Cut(name, "/"); ok && !t.ike && !t.child {
		return conn, kid, nil
	}
	if t.ike {
		return name, "", nil
	}
	if t.child {
		return "", name, nil
	}
	events, err := stream(ctx, s, "list-conns", "list-conn", nil)
	if err != nil {
		return "", "", err
	}
	var owners []string
	for _, e := range events {
		for _, v := range connViews(e) {
			if v.Name == name {
				return name, "", nil
			}
			for _, k := range v.Children {
				if k.Name == name {
					owners = append(owners, v.Name)
				}
			}
		}
	}
	switch len(owners) {
	case 0:
		return "", "", fmt.Errorf("no connection and no child is called %q: see ikectl connections", name)
	case 1:
		return owners[0], name, nil
	}
	return "", "", usageError{fmt.Errorf("%q is a child of %s: say which, as %s/%s", name, strings.Join(owners, " and "), owners[0], name)}
}

func (a *app) upCommand() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "up NAME", Short: "Bring a connection or one child up, and wait for it", Args: one("the name of a connection or child"),
		RunE: func(c *cobra.Command, args []string) error {
			if t.timeout <= 0 {
				return usageError{fmt.Errorf("timeout %s: expected more than 0", t.timeout)}
			}
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			ike, child, err := t.resolve(c.Context(), s, args[0])
			if err == nil && child == "" {
				err = a.upAll(c, s, ike, t.timeout)
				s.Close()
				return err
			}
			s.Close()
			if err != nil {
				return err
			}
			return a.operate(c, "initiate", message("ike", ike, "child", child, "timeout", millis(t.timeout), "loglevel", "1"), true)
		},
	}
	t.flags(c)
	c.Flags().DurationVar(&t.timeout, "timeout", 30*time.Second, "how long to wait")
	return c
}

// upAll brings up every child of a connection, or only its IKE SA when it has
// none.
func (a *app) upAll(c *cobra.Command, s *client.Client, conn string, timeout time.Duration) error {
	events, err := stream(c.Context(), s, "list-conns", "list-conn", message("ike", conn))
	if err != nil {
		return err
	}
	children := []string{}
	found := false
	for _, e := range events {
		for _, v := range connViews(e) {
			if v.Name != conn {
				continue
			}
			found = true
			for _, k := range v.Children {
				if k.Mode != "PASS" && k.Mode != "DROP" {
					children = append(children, k.Name)
				}
			}
		}
	}
	if !found {
		return fmt.Errorf("no connection is called %q: see ikectl connections", conn)
	}
	if len(children) == 0 {
		children = append(children, "")
	}
	for _, k := range children {
		if err := a.operate(c, "initiate", message("ike", conn, "child", k, "timeout", millis(timeout), "loglevel", "1"), true); err != nil {
			return err
		}
	}
	return nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func one(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%d arguments, expected one: %s", len(args), what)}
		}
		return nil
	}
}

func (a *app) downCommand() *cobra.Command {
	var t target
	var force bool
	c := &cobra.Command{
		Use: "down NAME", Short: "Close a connection, one child or the IKE SA #N, and wait for it", Args: one("the name of a connection or child, or #N"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.steer(c, &t, args[0], func(in wire.Message) error {
				in.Set("timeout", millis(t.timeout))
				in.Set("loglevel", "1")
				in.SetYes("force", force)
				return a.operate(c, "terminate", in, true)
			})
		},
	}
	t.flags(c)
	c.Flags().BoolVar(&force, "force", false, "do not insist on the peer's answer")
	c.Flags().DurationVar(&t.timeout, "timeout", 30*time.Second, "how long to wait")
	return c
}

func (a *app) rekeyCommand() *cobra.Command {
	var t target
	var reauth bool
	c := &cobra.Command{
		Use: "rekey NAME", Short: "Rekey a connection's IKE SA, a child or the IKE SA #N", Args: one("the name of a connection or child, or #N"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.steer(c, &t, args[0], func(in wire.Message) error {
				in.SetYes("reauth", reauth)
				return a.operate(c, "rekey", in, false)
			})
		},
	}
	t.flags(c)
	c.Flags().BoolVar(&reauth, "reauth", false, "set the IKE SA up again from the beginning instead")
	return c
}

// steer finds out which SAs NAME means and calls do with their selection. #N is the
// IKE SA with that number.
func (a *app) steer(c *cobra.Command, t *target, name string, do func(selection wire.Message) error) error {
	if id, ok := strings.CutPrefix(name, "#"); ok {
		if n, err := strconv.ParseUint(id, 10, 32); err != nil || n == 0 {
			return usageError{fmt.Errorf("%q: expected # and the number of an IKE SA, as ikectl sas shows it", name)}
		}
		return do(message("ike-id", id))
	}
	s, err := a.dial(c.Context())
	if err != nil {
		return err
	}
	ike, child, err := t.resolve(c.Context(), s, name)
	s.Close()
	if err != nil {
		return err
	}
	return do(message("ike", ike, "child", child))
}

func (a *app) reloadCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "reload", Short: "Read the configuration again and apply what changed", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			in := message()
			in.SetYes("dry-run", dry)
			return a.operate(c, "reload", in, false)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would change")
	return c
}

func (a *app) logCommand() *cobra.Command {
	var forever bool
	c := &cobra.Command{
		Use: "log", Short: "The last records of the daemon's log (-f: those that come, until interrupted)", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if forever {
				return a.follow(c.Context())
			}
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			events, err := stream(c.Context(), s, "recent-log", "recent-log", nil)
			for _, m := range events {
				a.logLine(stamp(m), m)
			}
			return err
		},
	}
	c.Flags().BoolVarP(&forever, "follow", "f", false, "go on until interrupted")
	return c
}

// redial is the pause between attempts to reach a daemon that went away.
const redial = 500 * time.Millisecond

// follow shows the log until ctx ends. A daemon that goes away, perhaps to be
// started again, is waited for; one that was never there is an error.
func (a *app) follow(ctx context.Context) error {
	s, err := a.dial(ctx)
	for err == nil {
		err = a.followOne(ctx, s)
		s.Close()
		if ctx.Err() != nil || !errors.As(err, new(unreachableError)) {
			break
		}
		fmt.Fprintln(a.err, "ikectl: the daemon ended; waiting for it to come back")
		for err != nil && errors.As(err, new(unreachableError)) {
			select {
			case <-time.After(redial):
				s, err = a.dial(ctx)
			case <-ctx.Done():
				return nil
			}
		}
		if err == nil {
			fmt.Fprintln(a.err, "ikectl: connected again")
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *app) followOne(ctx context.Context, s *client.Client) error {
	if err := s.Register(ctx, "log", nil); err != nil {
		return reachable(ctx, err)
	}
	return reachable(ctx, s.Events(ctx, func(_ string, m wire.Message) { a.logLine(time.Now(), m) }))
}

// stamp is the time of a record of the past.
func stamp(m wire.Message) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text(m, "at"))
	if err != nil {
		return time.Time{}
	}
	return t
}
