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

	"github.com/spf13/cobra"
	"github.com/strongswan/govici/vici"
)

// verdictView is the JSON of a command that steers.
type verdictView struct {
	Command string   `json:"command"`
	Success bool     `json:"success"`
	Reason  string   `json:"reason,omitempty"`
	Matches *int64   `json:"matches,omitempty"`
	Plan    []string `json:"plan,omitempty"`
}

// operate runs one command that steers and tells its verdict. With progress the
// daemon's records of the operation are shown as they come, in text output.
func (a *app) operate(c *cobra.Command, cmd string, in *vici.Message, progress bool) error {
	s, err := a.dial()
	if err != nil {
		return err
	}
	defer s.Close()
	if progress && a.output == "text" {
		stop, err := a.follow(s, "control-log")
		if err != nil {
			return err
		}
		defer stop()
	}
	m, err := call(c.Context(), s, cmd, in)
	v := verdictView{Command: c.Name(), Success: err == nil, Plan: nil}
	if m != nil {
		v.Matches = maybe(m, "matches")
		if p := list(m, "plan"); len(p) > 0 {
			v.Plan = p
		}
	}
	if err != nil {
		v.Reason = err.Error()
	}
	perr := a.print("result", v, func(w io.Writer) {
		for _, l := range v.Plan {
			fmt.Fprintln(w, l)
		}
		if v.Success && len(v.Plan) == 0 {
			fmt.Fprintln(w, "done")
		}
	})
	return errors.Join(err, perr)
}

// follow prints log events until stop is called, which waits for those that
// were already received.
func (a *app) follow(s *vici.Session, event string) (stop func(), err error) {
	events := make(chan vici.Event, 256)
	s.NotifyEvents(events)
	if err := s.Subscribe(event); err != nil {
		return nil, fmt.Errorf("%s: %w", event, err)
	}
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case e := <-events:
				if e.Message != nil {
					a.logLine(e)
				}
			case <-quit:
				for {
					select {
					case e := <-events:
						if e.Message != nil {
							a.logLine(e)
						}
					default:
						return
					}
				}
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		s.StopEvents(events)
	}, nil
}

func (a *app) logLine(e vici.Event) {
	m := e.Message
	if a.output == "json" {
		rec := map[string]any{
			"schema_version": schemaVersion, "at": e.Timestamp.UTC().Format(time.RFC3339Nano),
			"group": text(m, "group"), "level": number(m, "level"), "message": text(m, "msg"),
		}
		if n := text(m, "ikesa-name"); n != "" {
			rec["connection"], rec["id"] = n, number(m, "ikesa-uniqueid")
		}
		json.NewEncoder(a.out).Encode(rec)
		return
	}
	name := ""
	if n := text(m, "ikesa-name"); n != "" {
		name = fmt.Sprintf(" %s #%s:", n, text(m, "ikesa-uniqueid"))
	}
	fmt.Fprintf(a.out, "[%s]%s %s\n", text(m, "group"), name, text(m, "msg"))
}

// target splits "connection/child" or takes the name of either.
type target struct {
	ike, child bool
	timeout    time.Duration
}

func (t *target) flags(c *cobra.Command) {
	c.Flags().BoolVar(&t.ike, "ike", false, "NAME is a connection")
	c.Flags().BoolVar(&t.child, "child", false, "NAME is a child")
	c.MarkFlagsMutuallyExclusive("ike", "child")
}

// resolve says which keys select what the user named: "conn/child", a
// connection, or a child. Without a flag the daemon's configuration decides; a
// number with # is a unique id of an IKE SA.
func (t *target) resolve(ctx context.Context, s *vici.Session, name string) (ike, child string, err error) {
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
			s, err := a.dial()
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
func (a *app) upAll(c *cobra.Command, s *vici.Session, conn string, timeout time.Duration) error {
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
		Use: "down NAME", Short: "Close a connection or one child, and wait for it", Args: one("the name of a connection or child"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.steer(c, &t, args[0], func(ike, child string) error {
				in := message("ike", ike, "child", child, "timeout", millis(t.timeout), "loglevel", "1")
				if force {
					in.Set("force", "yes")
				}
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
		Use: "rekey NAME", Short: "Rekey a connection's IKE SA or a child", Args: one("the name of a connection or child"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.steer(c, &t, args[0], func(ike, child string) error {
				in := message("ike", ike, "child", child)
				if reauth {
					in.Set("reauth", "yes")
				}
				return a.operate(c, "rekey", in, false)
			})
		},
	}
	t.flags(c)
	c.Flags().BoolVar(&reauth, "reauth", false, "set the IKE SA up again from the beginning instead")
	return c
}

// steer finds out what NAME means and calls do.
func (a *app) steer(c *cobra.Command, t *target, name string, do func(ike, child string) error) error {
	s, err := a.dial()
	if err != nil {
		return err
	}
	ike, child, err := t.resolve(c.Context(), s, name)
	s.Close()
	if err != nil {
		return err
	}
	return do(ike, child)
}

func (a *app) reloadCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "reload", Short: "Read the configuration again and apply what changed", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			in := message()
			if dry {
				in.Set("dry-run", "yes")
			}
			return a.operate(c, "reload", in, false)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would change")
	return c
}

func (a *app) logCommand() *cobra.Command {
	var forever bool
	c := &cobra.Command{
		Use: "log", Short: "The daemon's log as it is written (-f: until interrupted)", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial()
			if err != nil {
				return err
			}
			defer s.Close()
			if !forever {
				events, err := stream(c.Context(), s, "recent-log", "recent-log", nil)
				if err != nil {
					return err
				}
				for _, m := range events {
					a.logLine(vici.Event{Message: m, Timestamp: stamp(m)})
				}
				return nil
			}
			stop, err := a.follow(s, "log")
			if err != nil {
				return err
			}
			defer stop()
			return a.untilGone(c.Context(), s)
		},
	}
	c.Flags().BoolVarP(&forever, "follow", "f", false, "go on until interrupted")
	return c
}

func stamp(m *vici.Message) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text(m, "at"))
	if err != nil {
		return time.Time{}
	}
	return t
}

// untilGone waits for an interrupt, and notices when the daemon ends.
func (a *app) untilGone(ctx context.Context, s *vici.Session) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := call(ctx, s, "version", nil); err != nil && ctx.Err() == nil {
				return unreachableError{errors.New("the daemon ended")}
			}
		}
	}
}
