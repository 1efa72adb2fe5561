// Command ikectl looks inside a running iked and steers it, over the control
// protocol VICI.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1 // refused or failed, with the reason
	exitUsage       = 2
	exitUnreachable = 3 // daemon not reachable
)

// schemaVersion of every JSON document; it grows when a field changes its
// meaning or goes, never when one is added.
const schemaVersion = 1

// version is set by the linker.
var version = "devel"

// usageError marks what exits with 2.
type usageError struct{ error }

// unreachableError marks what exits with 3.
type unreachableError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process: what scripts and tests call.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	a.printError(err)
	var usage usageError
	var unreachable unreachableError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &unreachable):
		fmt.Fprintln(stderr, "ikectl:", err)
		return exitUnreachable
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, "ikectl:", err)
		fmt.Fprintln(stderr, "Try: ikectl --help")
		return exitUsage
	}
	fmt.Fprintln(stderr, "ikectl:", err)
	return exitFailed
}

// app is one invocation.
type app struct {
	out, err io.Writer
	control  string
	output   string
	printed  bool // a JSON document was written
}

// printError writes a JSON document for a failure that has none yet, so that a
// script can read standard output whatever happened.
func (a *app) printError(err error) {
	if err == nil || a.printed || a.output != "json" {
		return
	}
	code := exitFailed
	if errors.As(err, new(usageError)) {
		code = exitUsage
	} else if errors.As(err, new(unreachableError)) {
		code = exitUnreachable
	}
	type failure struct {
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	}
	a.print("error", failure{code, err.Error()}, nil)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "ikectl",
		Short:         "Look inside iked and steer it",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if c.Name() == "convert" {
				return nil // its output is a configuration
			}
			if a.output != "text" && a.output != "json" {
				return usageError{fmt.Errorf("output %q: expected text or json", a.output)}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			c.Help()
			return usageError{errors.New("a command is missing")}
		},
		Args: cobra.ArbitraryArgs,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&a.control, "control", "unix:///run/iked/iked.vici", "control socket of the daemon (unix://PATH or tcp://HOST:PORT)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "text or json")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		a.statusCommand(), a.sasCommand(), a.policiesCommand(), a.connectionsCommand(),
		a.upCommand(), a.downCommand(), a.rekeyCommand(), a.reloadCommand(),
		a.explainCommand(), a.logCommand(), a.countersCommand(), a.versionCommand(),
		a.saCommand(), a.policyCommand(), a.migrateCommand(), a.convertCommand(),
	)
	return root
}

// atMost refuses more than n arguments, as a usage error.
func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError{fmt.Errorf("unexpected argument %q", args[n])}
		}
		return nil
	}
}
