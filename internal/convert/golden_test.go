package convert_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/internal/convert"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// input reads the files of an example from its directory.
func input(t testing.TB, dir string) convert.Input {
	read := func(name string) (convert.Source, error) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		return convert.Source{Name: name, Data: data}, err
	}
	in := convert.Input{
		SecretsDir: "secrets",
		Include: func(_, pattern string) ([]convert.Source, error) {
			s, err := read(pattern)
			return []convert.Source{s}, err
		},
		PSK: func(_, name string) (convert.Source, error) { return read(name) },
	}
	for _, n := range []string{"racoon.conf", "setkey.conf"} {
		if s, err := read(n); err == nil {
			in.Files = append(in.Files, s)
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if len(in.Files) == 0 {
		t.Fatalf("%s has no example", dir)
	}
	return in
}

// Real configurations become what stands beside them, with every note, in both
// formats; keys are in no output; and the daemon's own check takes what needs no
// certificate.
func TestGolden(t *testing.T) {
	dirs, _ := filepath.Glob("testdata/golden/*")
	if len(dirs) < 7 {
		t.Fatalf("found %d examples", len(dirs))
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			r, err := convert.Convert(input(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			b.WriteString(r.YAML())
			fmt.Fprintf(&b, "\n# Insecure: %v. Key files: %d.\n", r.Insecure(), len(r.Keys))
			for _, n := range r.Notes {
				fmt.Fprintf(&b, "# %v\n", n)
			}
			golden := filepath.Join(dir, "golden.yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("found\n%s\nexpected\n%s", b.String(), want)
			}
			for _, k := range r.Keys {
				for _, l := range bytes.Split(bytes.TrimSpace(k.Data.Reveal()), []byte("\n")) {
					_, value, ok := bytes.Cut(l, []byte("_key="))
					if !ok {
						value = l
					}
					if strings.Contains(b.String(), string(value)) || strings.Contains(r.TOML(), string(value)) {
						t.Errorf("the key of %s is in the output", k.Name)
					}
				}
			}
			check(t, r, "yaml", r.YAML())
			check(t, r, "toml", r.TOML())
		})
	}
}

// check loads an output as the daemon does.
func check(t *testing.T, r *convert.Result, format, text string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, k := range r.Keys {
		if err := os.WriteFile(filepath.Join(dir, "secrets", k.Name), k.Data.Reveal(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "iked."+format)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, faults := conf.Load(file, time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC))
	for _, f := range faults {
		// Certificates and passwords of users are not in the example.
		if s := f.String(); !f.Warning && !strings.Contains(s, "certs/") && !strings.Contains(s, "cacerts/") && !strings.Contains(s, ".crt") {
			t.Errorf("%s: %s\n%s", format, s, text)
		}
	}
}
