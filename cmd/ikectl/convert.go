package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"iked/internal/convert"
)

func (a *app) convertCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "convert FILE...",
		Short: "Say the configuration of racoon and setkey in that of iked",
		Long: "Read racoon.conf and setkey.conf, best both in one run, and print iked.yaml (or, with -o toml, iked.toml). What is not as it was is said on standard error, a line each." +
			"\n\nIt exits with 1 when something that protects traffic was left out." +
			"\n\nKeys are never printed. With --secrets-dir they are written there, to files that only their owner may read.",
		Example: "  ikectl convert --secrets-dir /etc/iked/secrets /etc/racoon/racoon.conf /etc/ipsec-tools.conf > /etc/iked/iked.yaml",
		Args:    cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			format := a.output
			if !c.Flags().Changed("output") {
				format = "yaml"
			}
			switch {
			case len(args) == 0:
				return usageError{errors.New("a file is missing: give racoon.conf, setkey.conf or both")}
			case format != "yaml" && format != "toml":
				return usageError{fmt.Errorf("output %q: expected yaml or toml", format)}
			}
			return a.convert(args, format, dir)
		},
	}
	c.Flags().StringVar(&dir, "secrets-dir", "", "write keys to new files in this directory, which is made if need be")
	return c
}

func (a *app) convert(files []string, format, dir string) error {
	in := convert.Input{Include: include}
	for _, f := range files {
		s, err := source(f)
		if err != nil {
			return usageError{err}
		}
		in.Files = append(in.Files, s)
	}
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		in.SecretsDir = abs
		in.PSK = func(from, name string) (convert.Source, error) { return source(beside(from, name)) }
	}
	r, err := convert.Convert(in)
	if err != nil {
		return err
	}
	if err := writeSecrets(in.SecretsDir, r.Keys); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(a.err, n)
	}
	text := r.YAML()
	if format == "toml" {
		text = r.TOML()
	}
	if _, err := io.WriteString(a.out, text); err != nil {
		return err
	}
	if r.Insecure() {
		return errors.New("something that protects traffic was left out: see the lines above before you use what was printed")
	}
	return nil
}

// beside is a name as a file means it.
func beside(from, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(from), name)
}

// source reads one file, not more of it than the converter takes.
func source(name string) (convert.Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return convert.Source{}, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return convert.Source{}, err
	} else if st.IsDir() {
		return convert.Source{}, fmt.Errorf("%s is a directory", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, convert.MaxFile+1))
	return convert.Source{Name: name, Data: data}, err
}

// include reads what a statement include names, which may be a pattern.
func include(from, pattern string) ([]convert.Source, error) {
	names, err := filepath.Glob(beside(from, pattern))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no such file")
	}
	var out []convert.Source
	for _, n := range names {
		s, err := source(n)
		if err != nil {
			return nil, err
		}
		if out = append(out, s); len(out) > 64 {
			return nil, errors.New("more than 64 files")
		}
	}
	return out, nil
}

// writeSecrets makes files that did not exist; what it made is removed again when
// one of them is there.
func writeSecrets(dir string, keys []convert.KeyFile) error {
	if len(keys) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var made []string
	write := func(k convert.KeyFile) error {
		name := filepath.Join(dir, k.Name)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s is there already: remove it, or choose another --secrets-dir", name)
		} else if err != nil {
			return err
		}
		made = append(made, name)
		_, err = f.Write(k.Data.Reveal())
		return errors.Join(err, f.Sync(), f.Close())
	}
	for _, k := range keys {
		if err := write(k); err != nil {
			for _, n := range made {
				os.Remove(n)
			}
			return err
		}
	}
	return nil
}
