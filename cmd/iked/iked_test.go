package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets a test run this program as iked.
func TestMain(m *testing.M) {
	if os.Getenv("IKED_TEST_MAIN") == "1" {
		main()
	}
	os.Exit(m.Run())
}

func iked(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "IKED_TEST_MAIN=1")
	var b strings.Builder
	cmd.Stderr = &b
	cmd.Run()
	return cmd.ProcessState.ExitCode(), b.String()
}

const good = `connections:
  - name: office
    remote_addrs: [sun.example.org]
    children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16], start: always}]
secrets:
  - {psk: "file:office.psk"}
`

// --check prints every fault with file, line and key, and ends with 1; a file
// without faults ends with 0, warnings or not.
func TestCheck(t *testing.T) {
	for _, x := range []struct {
		name, file, text string
		mode             os.FileMode // of the secret; 0: there is none
		code             int
		want             []string
	}{
		{name: "good", text: good, mode: 0o600, want: []string{"no faults, 1 connections"}},
		{name: "empty", want: []string{"0 connections"}},
		{name: "typo", text: strings.NewReplacer("remote_addrs", "remot_adrs", "start: always", "strat: always").Replace(good), mode: 0o600, code: 1,
			want: []string{":3: ", "did you mean remote_addrs?", ":4: ", "did you mean start?"}},
		{name: "no secret", text: good, code: 1, want: []string{":6: secrets[0].psk", "office.psk"}},
		{name: "secret for all", text: good, mode: 0o644, code: 1, want: []string{":6: secrets[0].psk", "chmod 600"}},
		{name: "selectors", text: strings.NewReplacer("10.1.0.0/16", "10.1.0.0/33", "10.2.0.0/16", "banana").Replace(good), mode: 0o600, code: 1,
			want: []string{"local_ts[0]", "10.1.0.0/33", "remote_ts[0]", "banana"}},
		{name: "proposals", text: strings.Replace(good, "    children", "    proposals: [aes128-sha999, 3des]\n    children", 1), mode: 0o600, code: 1,
			want: []string{":4: connections[office].proposals[0]", "sha999", "proposals[1]", "integrity"}},
		{name: "twice", text: strings.Replace(good, "secrets:", "  - name: office\n    remote_addrs: [192.0.2.1]\nsecrets:", 1), mode: 0o600, code: 1,
			want: []string{":5: connections[office].name", "already taken in line 2"}},
		{name: "tab", text: strings.Replace(good, "    remote", "\t remote", 1), mode: 0o600, code: 1, want: []string{":3: ", "tab"}},
		{name: "list", text: "[]\n", code: 1, want: []string{":1: ", "connections:"}},
		{name: "bytes", text: "\xff\xfe\x00", code: 1, want: []string{"not YAML"}},
		{name: "aliases", text: "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n" +
			"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n", code: 1, want: []string{"too large"}},
		{name: "TOML", file: "iked.toml", text: "[[connections]]\nname = \"office\"\nrekey_time = \"4 hours\"\nprot = 5\n", code: 1,
			want: []string{":3: connections[office].rekey_time", ":4: connections[office].prot"}},
		{name: "TOML syntax", file: "iked.toml", text: "[[connections]]\nname = \"x\n", code: 1, want: []string{":2: ", "not TOML"}},
		{name: "ending", file: "iked.conf", text: good, code: 1, want: []string{".yaml or .toml"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if x.file == "" {
				x.file = "iked.yaml"
			}
			path := filepath.Join(dir, x.file)
			if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if x.mode != 0 {
				psk := filepath.Join(dir, "office.psk")
				if err := os.WriteFile(psk, []byte("throw-away and long enough\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(psk, x.mode); err != nil {
					t.Fatal(err)
				}
			}
			code, said := iked(t, "--check", "--config", path)
			if code != x.code {
				t.Errorf("ends with %d, want %d:\n%s", code, x.code, said)
			}
			for _, w := range append(x.want, path) {
				if !strings.Contains(said, w) {
					t.Errorf("does not say %q:\n%s", w, said)
				}
			}
			if strings.Contains(said, "throw-away") {
				t.Errorf("a secret is printed:\n%s", said)
			}
		})
	}
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none.yaml")} {
		if code, said := iked(t, "--check", "--config", path); code != 1 || !strings.Contains(said, path) {
			t.Errorf("%s: ends with %d:\n%s", path, code, said)
		}
	}
}

// What is wrong on the command line ends with 2 and names it; what is wrong with a
// value says what is expected, before anything is opened.
func TestCommandLine(t *testing.T) {
	for _, x := range []struct {
		code int
		want string
		args []string
	}{
		{2, "--nonsense", []string{"--nonsense"}},
		{2, "extra", []string{"extra"}},
		{0, "", []string{"--version"}},
		{0, "", []string{"--help"}},
		{1, "error, warn, info, debug or trace", []string{"--log-level", "loud"}},
		{1, "text or json", []string{"--log-format", "xml"}},
	} {
		if code, said := iked(t, x.args...); code != x.code || !strings.Contains(said, x.want) {
			t.Errorf("iked %v ends with %d, want %d and %q:\n%s", x.args, code, x.code, x.want, said)
		}
	}
}
