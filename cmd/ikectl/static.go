package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"iked/vici/client"
	"iked/vici/wire"
)

// saWords are the keys of `sa add` in the order in which they are printed.
var saWords = []string{"name", "dir", "proto", "spi", "src", "dst", "one_sender", "mode", "reqid", "local_ts", "remote_ts", "alg", "replay_window",
	"encap", "soft_time", "hard_time", "soft_bytes", "hard_bytes", "soft_packets", "hard_packets", "tfc_padding"}

// policyWords are those of `policy add`.
var policyWords = []string{"name", "action", "dir", "local_ts", "remote_ts", "priority", "proto", "mode", "reqid", "outer_local", "outer_remote", "bundle"}

// keyWords hold key material: never on a command line, where every user of the
// host sees it.
var keyWords = []string{"encr_key", "integ_key"}

func (a *app) saCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "sa", Short: "SAs keyed by hand, for tests and for peers without IKE",
		Long: "SAs keyed by hand, for tests and for peers without IKE. They are written as KEY=VALUE words:\n\n  " + strings.Join(saWords, " ") +
			"\n\nKeys come from a file with lines such as\n\n  encr_key=000102030405060708090a0b0c0d0e0f10111213\n  integ_key=...\n\nin hexadecimal digits, the salt of counter modes as the last octets.",
		RunE: missing,
	}
	c.AddCommand(a.saAddCommand(), a.wordsCommand("update", "static-sa-update", "Change the outer addresses or ports of an SA: spi=, new_src=, new_dst=, new_encap="),
		a.wordsCommand("delete", "static-sa-delete", "Delete an SA: spi=, and dir=, proto=, dst= where that is not enough"),
		a.wordsCommand("flush", "static-sa-flush", "Delete all SAs that were keyed by hand"), a.saExportCommand())
	return c
}

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Policies put in by hand, for SAs keyed by hand",
		Long: "Policies put in by hand, for SAs keyed by hand. They are written as KEY=VALUE words:\n\n  " + strings.Join(policyWords, " "),
		RunE: missing,
	}
	c.AddCommand(a.wordsCommand("add", "static-policy-add", "Put a policy in"), a.wordsCommand("delete", "static-policy-delete", "Delete a policy: name="),
		a.wordsCommand("flush", "static-policy-flush", "Delete all policies that were put in by hand"), a.policyListCommand())
	return c
}

func missing(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q of %s", args[0], c.Name())}
	}
	c.Help()
	return usageError{errors.New("a command is missing")}
}

// assignments reads KEY=VALUE words into a request.
func assignments(m *wire.Message, args []string, keys bool) error {
	for _, w := range args {
		k, v, ok := strings.Cut(w, "=")
		switch {
		case !ok || k == "":
			return usageError{fmt.Errorf("%q: expected KEY=VALUE", w)}
		case m.Has(k):
			return usageError{fmt.Errorf("%s is there twice", k)}
		case slices.Contains(keyWords, k) && !keys:
			return usageError{fmt.Errorf("%s on the command line would be seen by every user of this host: write it into a file and give --key-file", k)}
		case slices.Contains(keyWords, k):
			b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimPrefix(v, "0x"), ":", ""))
			if err != nil {
				// The error of the decoder would show a part of the key.
				return usageError{fmt.Errorf("%s: expected an even number of hexadecimal digits", k)}
			}
			m.SetBytes(k, b)
		default:
			m.Set(k, v)
		}
	}
	return nil
}

// wordsCommand is one that sends its words as they are.
func (a *app) wordsCommand(name, cmd, short string) *cobra.Command {
	return &cobra.Command{
		Use: name + " [KEY=VALUE]...", Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			var m wire.Message
			if err := assignments(&m, args, false); err != nil {
				return err
			}
			return a.operate(c, cmd, m, false)
		},
	}
}

// maxKeyFile bounds what is read of a file with keys or SAs.
const maxKeyFile = 8 << 20

// readLines reads a file, or standard input for "-", without empty lines and
// comments. A file that others may read is refused: it has keys.
func readLines(c *cobra.Command, path string) ([]string, error) {
	in := c.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		if st, err := f.Stat(); err != nil {
			return nil, err
		} else if st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
			return nil, usageError{fmt.Errorf("%s may be read by others (mode %04o), and it has keys: chmod 600 it", path, st.Mode().Perm())}
		}
		in = f
	}
	var lines []string
	s := bufio.NewScanner(io.LimitReader(in, maxKeyFile))
	s.Buffer(nil, 1<<16)
	for s.Scan() {
		if l := strings.TrimSpace(s.Text()); l != "" && !strings.HasPrefix(l, "#") {
			lines = append(lines, l)
		}
	}
	return lines, s.Err()
}

func (a *app) saAddCommand() *cobra.Command {
	var keyFile, file string
	c := &cobra.Command{
		Use: "add KEY=VALUE... --key-file FILE", Short: "Install an SA", Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case file != "" && (keyFile != "" || len(args) > 0):
				return usageError{errors.New("--file has everything: give no words and no --key-file beside it")}
			case file == "" && keyFile == "":
				return usageError{errors.New("the keys are missing: give --key-file FILE, or - for standard input")}
			}
			if file != "" {
				return a.saAddFile(c, file)
			}
			var m wire.Message
			if err := assignments(&m, args, false); err != nil {
				return err
			}
			lines, err := readLines(c, keyFile)
			if err != nil {
				return err
			}
			for _, l := range lines {
				if k, _, _ := strings.Cut(l, "="); !slices.Contains(keyWords, k) {
					return usageError{fmt.Errorf("the key file has a line that is neither encr_key= nor integ_key=")}
				}
			}
			if err := assignments(&m, lines, true); err != nil {
				return err
			}
			return a.operate(c, "static-sa-add", m, false)
		},
	}
	c.Flags().StringVar(&keyFile, "key-file", "", "file with the keys, - for standard input")
	c.Flags().StringVar(&file, "file", "", "file with one SA on each line, as `sa export --with-keys` writes it, - for standard input")
	return c
}

// saAddFile installs every SA of a file; it stops at the first that is refused.
func (a *app) saAddFile(c *cobra.Command, file string) error {
	lines, err := readLines(c, file)
	if err != nil {
		return err
	}
	var all []wire.Message
	for i, l := range lines {
		var m wire.Message
		if err := assignments(&m, strings.Fields(l), true); err != nil {
			return fmt.Errorf("SA %d of the file: %w", i+1, err)
		}
		all = append(all, m)
	}
	s, err := a.dial(c.Context())
	if err != nil {
		return err
	}
	defer s.Close()
	for i, m := range all {
		if _, err := call(c.Context(), s, "static-sa-add", m, nil); err != nil {
			return fmt.Errorf("SA %d of the file: %w (those before it are installed)", i+1, err)
		}
	}
	n := int64(len(all))
	return a.print("result", verdictView{Command: c.Name(), Success: true, Matches: &n}, func(w io.Writer) { fmt.Fprintf(w, "%d SAs installed\n", n) })
}

// line writes a message as the words that make it again.
func line(m wire.Message, words []string) string {
	var out []string
	for _, k := range words {
		if v := text(m, k); v != "" {
			out = append(out, k+"="+v)
		} else if l := list(m, k); len(l) > 0 {
			out = append(out, k+"="+strings.Join(l, ","))
		}
	}
	return strings.Join(out, " ")
}

func (a *app) saExportCommand() *cobra.Command {
	var keys string
	c := &cobra.Command{
		Use: "export", Short: "List the SAs as words for `sa add`, without keys", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			var in wire.Message
			if keys != "" {
				in.Set("keys", "yes")
			}
			events, err := stream(c.Context(), s, "static-sas", "static-sa", in)
			if err != nil {
				return err
			}
			if keys != "" {
				if err := writeKeys(keys, events); err != nil {
					return err
				}
				n := int64(len(events))
				return a.print("result", verdictView{Command: c.Name(), Success: true, Matches: &n}, func(w io.Writer) { fmt.Fprintf(w, "%d SAs written to %s\n", n, keys) })
			}
			return a.print("static_sas", staticViews(events, saWords), func(w io.Writer) {
				for _, m := range events {
					fmt.Fprintln(w, line(m, saWords))
				}
			})
		},
	}
	c.Flags().StringVar(&keys, "with-keys", "", "write the SAs with their keys to this new file, which only its owner may read")
	return c
}

// writeKeys makes a file that did not exist, so that no other file's mode or owner
// decides who reads the keys.
func writeKeys(path string, events []wire.Message) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return usageError{err}
	}
	w := bufio.NewWriter(f)
	for _, m := range events {
		w.WriteString(line(m, saWords))
		for _, k := range keyWords {
			if b, ok := m.Bytes(k); ok {
				fmt.Fprintf(w, " %s=%s", k, hex.EncodeToString(b))
			}
		}
		w.WriteByte('\n')
	}
	return errors.Join(w.Flush(), f.Sync(), f.Close())
}

func (a *app) policyListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the policies as words for `policy add`", Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.dial(c.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			events, err := stream(c.Context(), s, "static-policies", "static-policy", nil)
			if err != nil {
				return err
			}
			return a.print("static_policies", staticViews(events, policyWords), func(w io.Writer) {
				for _, m := range events {
					fmt.Fprintln(w, line(m, policyWords))
				}
			})
		},
	}
}

// statics are the events about what was put in by hand; a daemon that does not
// know the command has none.
func statics(ctx context.Context, s *client.Client, cmd, event string) ([]wire.Message, error) {
	events, err := stream(ctx, s, cmd, event, nil)
	if errors.Is(err, client.ErrUnknown) {
		return nil, nil
	}
	return events, err
}

// showStatic writes them apart from what was negotiated.
func showStatic(w io.Writer, events []wire.Message, words []string) {
	for _, m := range events {
		use := ""
		if u := section(m, "usage"); u != nil {
			use = fmt.Sprintf(", %d packets, %d bytes", number(u, "packets"), number(u, "bytes"))
		}
		fmt.Fprintf(w, "static: %s%s\n", line(m, words), use)
	}
}

// staticViews are documents with the words as keys; those of lists are lists.
func staticViews(events []wire.Message, words []string) []map[string]any {
	out := []map[string]any{}
	for _, m := range events {
		v := map[string]any{}
		for _, k := range words {
			if s := text(m, k); s != "" {
				v[k] = s
			} else if l := list(m, k); len(l) > 0 {
				v[k] = l
			}
		}
		if u := section(m, "usage"); u != nil {
			v["bytes"], v["packets"] = number(u, "bytes"), number(u, "packets")
		}
		out = append(out, v)
	}
	return out
}
