package conf

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// Every fault of a faulty file is reported, with its line, its key and a remedy.
func TestFaultsGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/faulty/*.*ml")
	if len(files) < 8 {
		t.Fatalf("found %d faulty files", len(files))
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			d := dir(t, map[string]string{filepath.Base(f): string(text)})
			if err := os.Chmod(filepath.Join(d, filepath.Base(f)), 0o644); err != nil {
				t.Fatal(err)
			}
			c, faults := Load(filepath.Join(d, filepath.Base(f)), testNow)
			if c != nil || !faults.Failed() {
				t.Fatal("the file was accepted")
			}
			got := strings.ReplaceAll(faults.Error(), d+"/", "") + "\n"
			golden := f + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Error(d)
			}
			for _, secret := range []string{"0x1234", "0xzz", "4660"} {
				if strings.Contains(got, secret) {
					t.Errorf("a secret is shown: %s", secret)
				}
			}
		})
	}
}

// dir writes files into a new directory; secrets get mode 0600.
func dir(t testing.TB, files map[string]string) string {
	t.Helper()
	d := t.TempDir()
	for name, text := range files {
		path := filepath.Join(d, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func load(t testing.TB, files map[string]string) *Config {
	t.Helper()
	c, faults := Load(filepath.Join(dir(t, files), "iked.yaml"), testNow)
	if len(faults) > 0 {
		t.Fatalf("faults:\n%s", faults.Error())
	}
	return c
}

const minimal = `
connections:
  - name: office
    remote_addrs: [sun.example.org]
    children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16], start: always}]
secrets:
  - {psk: "file:office.psk"}
`

// The six lines of the README are a complete configuration: a pre-shared key for
// both sides, IKEv2, always up, fail closed.
func TestMinimalFile(t *testing.T) {
	c := load(t, map[string]string{"iked.yaml": minimal, "office.psk": "correct horse\n"})
	conn := c.Connections[0]
	ch := conn.Children[0]
	if conn.Version != 2 || conn.Local[0].Class != AuthPSK || conn.Remote[0].Class != AuthPSK || !conn.Remote[0].ID.IsAny() {
		t.Errorf("authentication: %+v %+v", conn.Local[0], conn.Remote[0])
	}
	if string(c.Secrets[0].Data.Reveal()) != "correct horse" {
		t.Error("the secret is not the file without its last newline")
	}
	if conn.RemoteAddrs[0].Name != "sun.example.org" || !conn.LocalAddrs[0].IsAny() || conn.RekeyTime != 4*time.Hour || conn.OverTime != 24*time.Minute {
		t.Errorf("defaults: %+v", conn)
	}
	if ch.Start != StartAlways || ch.StartAction != ActionTrap|ActionStart || ch.Time.Rekey != time.Hour || ch.Time.Life != 66*time.Minute || ch.Time.Rand != 6*time.Minute || ch.ReplayWindow != 32 {
		t.Errorf("child: %+v", ch)
	}
	if c.Fail != FailClosed || c.Port != 500 || c.PortNATT != 4500 || c.Backend != BackendAuto {
		t.Errorf("global: %+v", c.Global)
	}
}

// YAML and TOML fill the same structs.
func TestTOMLIsTheSame(t *testing.T) {
	files := map[string]string{"iked.yaml": minimal, "office.psk": "x", "iked.toml": `
[[connections]]
name = "office"
remote_addrs = ["sun.example.org"]
children = [{name = "net", local_ts = ["10.1.0.0/16"], remote_ts = ["10.2.0.0/16"], start = "always"}]

[[secrets]]
psk = "file:office.psk"
`}
	d := dir(t, files)
	a, f1 := Load(filepath.Join(d, "iked.yaml"), testNow)
	b, f2 := Load(filepath.Join(d, "iked.toml"), testNow)
	if f1 != nil || f2 != nil {
		t.Fatal(f1, f2)
	}
	if ch := Diff(a, b); !ch.Empty() {
		t.Errorf("they differ:\n%s", ch.String())
	}
}

// Dots in names are kept, and case in values.
func TestDotsAndCase(t *testing.T) {
	c := load(t, map[string]string{"iked.yaml": `
connections:
  - name: Moon.Example.org
    local: {id: Moon.Example.org}
    remote: {id: "C=CH, O=Lab, CN=Sun"}
secrets: [{psk: "MiXed.Case", id: ["C=CH, O=Lab, CN=Sun"]}]
`})
	if c.Connections[0].Name != "Moon.Example.org" || c.Connections[0].Local[0].ID.Data != "Moon.Example.org" || string(c.Secrets[0].Data.Reveal()) != "MiXed.Case" {
		t.Errorf("%+v", c.Connections[0])
	}
}

// A secret file that everybody may read is refused, with the command that helps.
func TestWorldReadableSecret(t *testing.T) {
	d := dir(t, map[string]string{"iked.yaml": minimal, "office.psk": "x"})
	if err := os.Chmod(filepath.Join(d, "office.psk"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, faults := Load(filepath.Join(d, "iked.yaml"), testNow)
	if len(faults) == 0 || !strings.Contains(faults.Error(), "chmod 600") || !strings.Contains(faults.Error(), "secrets[0].psk") {
		t.Errorf("faults: %v", faults.Error())
	}
}

// Nothing of a configuration prints a secret.
func TestSecretsDoNotPrint(t *testing.T) {
	c := load(t, map[string]string{"iked.yaml": minimal, "office.psk": "hunter2"})
	d := Diff(nil, c)
	for _, s := range []string{d.String(), sprint(c), sprint(*c.Secrets[0]), sprint(c.Secrets)} {
		if strings.Contains(s, "hunter2") || strings.Contains(s, "104 117 110") {
			t.Errorf("the secret is shown: %s", s)
		}
	}
}

// The configuration reference is the one that the tables make.
func TestReferenceIsCurrent(t *testing.T) {
	var b strings.Builder
	if err := WriteReference(&b); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("run go generate ./conf:\n%s", d)
	}
}

// Aliases cannot blow a small file up.
func TestAliasBomb(t *testing.T) {
	text := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		text += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+",", 10) + "]\n"
	}
	if _, faults := Parse("x.yaml", []byte(text), testNow); !faults.Failed() {
		t.Error("accepted")
	}
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte(minimal))
	for _, p := range []string{"keys", "values", "cross", "credentials", "shape"} {
		b, err := os.ReadFile("testdata/faulty/" + p + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, faults := Parse("testdata/none/x.yaml", data, testNow)
		if (c == nil) != faults.Failed() {
			t.Error("a configuration with faults, or none without")
		}
		if c != nil {
			Diff(nil, c)
		}
	})
}

func FuzzTOML(f *testing.F) {
	for _, p := range []string{"values", "syntax"} {
		b, err := os.ReadFile("testdata/faulty/" + p + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, faults := Parse("testdata/none/x.toml", data, testNow)
		if (c == nil) != faults.Failed() {
			t.Error("a configuration with faults, or none without")
		}
	})
}
