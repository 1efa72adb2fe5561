// iked negotiates IPsec keys with IKEv2, IKEv1 and KINK, for the kernel's IPsec or a
// datapath of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"iked/internal/daemon"
)

// version is set by the build.
var version = ""

func main() { os.Exit(run(os.Args[1:])) }

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func run(args []string) int {
	var o daemon.Options
	var started bool
	c := &cobra.Command{
		Use:   "iked [flags]",
		Short: "IPsec key exchange daemon: IKEv2, IKEv1 and KINK, over the kernel's IPsec or its own",
		Long: `iked brings IPsec SAs up with IKEv2 (RFC 7296), IKEv1 (RFC 2409) or KINK (RFC
4430) and keeps them up. ESP and AH are the kernel's, or those of its own datapath
(--backend). It runs in the foreground, logs to stderr and tells systemd when it is
ready. It needs root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_NET_BIND_SERVICE, and
with its own datapath /dev/net/tun.

Signals:
  SIGTERM, SIGINT  delete all SAs, remove routes, policies and devices, end
  SIGHUP           read the configuration again; what did not change goes on, and
                   a faulty configuration changes nothing

Without a file at the default place it starts empty and waits for connections
over the control protocol (ikectl, swanctl).`,
		Example: `  iked --check                              print every fault of the configuration
  iked --config office.yaml --log-level debug
  ikectl status                             see what it does`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       versionText(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			started = true
			o.Version = versionText()
			return daemon.Run(context.Background(), o)
		},
	}
	c.SetVersionTemplate("iked {{.Version}}\n")
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.Config, "config", "", "configuration `FILE`, YAML or TOML (default "+daemon.DefaultConfig+")")
	f.StringVar(&o.Control, "control", "", "`URI` of the control socket (default "+daemon.DefaultControl+")")
	f.StringVar(&o.State, "state", "", "`DIR` for what is kept over restarts (default "+daemon.DefaultState+")")
	f.StringVar(&o.Backend, "backend", "", "what carries the traffic: auto, kernel or userspace (default auto)")
	f.StringVar(&o.LogLevel, "log-level", "", "`LEVEL` error, warn, info, debug or trace (default info)")
	f.StringVar(&o.LogFormat, "log-format", "", "`FORMAT` text or json (default text)")
	f.BoolVar(&o.Check, "check", false, "check the configuration, print every fault, and exit")
	c.SetArgs(args)
	err := c.Execute()
	switch {
	case err == nil:
		return 0
	case !started:
		fmt.Fprintf(os.Stderr, "iked: %v\nsee iked --help\n", err)
		return exitUsage
	case errors.Is(err, daemon.ErrConfig) && o.Check:
		return exitFailed // the faults were printed
	}
	fmt.Fprintf(os.Stderr, "iked: %v\n", err)
	return exitFailed
}

// versionText is the version of the build, or the revision that it was built of.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "development"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "development " + s.Value[:12]
		}
	}
	return "development"
}
