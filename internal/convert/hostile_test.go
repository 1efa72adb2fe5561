package convert_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/convert"
)

// examples are the files of the golden examples.
func examples(t testing.TB) map[string][]byte {
	out := map[string][]byte{}
	names, _ := filepath.Glob("testdata/golden/*/*.conf")
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		out[n] = data
	}
	if len(out) < 10 {
		t.Fatalf("found %d examples", len(out))
	}
	return out
}

func one(data string) convert.Input {
	return convert.Input{
		Files:      []convert.Source{{Name: "x.conf", Data: []byte(data)}},
		Include:    func(_, p string) ([]convert.Source, error) { return []convert.Source{{Name: p}}, nil },
		PSK:        func(_, p string) (convert.Source, error) { return convert.Source{Name: p, Data: []byte("a b\n")}, nil },
		SecretsDir: "s",
	}
}

// A file that was cut off is refused, unless what is left are whole statements; and
// a refusal says in which file and line.
func TestEveryPrefix(t *testing.T) {
	for name, data := range examples(t) {
		for n := range data {
			prefix := string(data[:n])
			_, err := convert.Convert(one(prefix))
			lines := strings.Split(prefix, "\n")
			for i, l := range lines {
				l, _, _ = strings.Cut(l, "#")
				lines[i] = l
			}
			text := strings.TrimSpace(strings.Join(lines, "\n"))
			whole := text == "" || (strings.HasSuffix(text, ";") || strings.HasSuffix(text, "}")) && strings.Count(text, "{") == strings.Count(text, "}")
			switch {
			case err == nil && !whole:
				t.Fatalf("%s: the first %d octets were accepted: %q", name, n, prefix[max(0, n-60):])
			case err != nil && !strings.HasPrefix(err.Error(), "x.conf:"):
				t.Fatalf("%s: the first %d octets: %v", name, n, err)
			}
		}
	}
}

// What no right file has is refused with its place.
func TestSyntaxErrors(t *testing.T) {
	for text, want := range map[string]string{
		"}":                                  "x.conf:1: a closing brace without",
		"log info;\nremote anonymous {\n":    "x.conf:2: the file ends inside a block",
		"log info":                           "x.conf:1: the file ends inside a statement",
		"path a \"b;\n":                      "x.conf:1: the quotation mark",
		"listen { isakmp 1.2.3.4 [500; }":    "x.conf:1: the bracket",
		"remote anonymous { a }":             "x.conf:1: a semicolon is missing",
		"log \x01;":                          "x.conf:1: a control character",
		"log \xff;":                          "x.conf:1: this is not text",
		"{}":                                 "x.conf:1: a block that belongs to nothing",
		"remote 192.0.2.1;":                  "x.conf:1: remote: expected a block",
		"remote 192.0.2.1 inherit x {}":      "x.conf:1: remote: there is no remote \"x\"",
		"sainfo address 10.0.0.0/8 any x {}": "x.conf:1: sainfo: expected address",
		"flush; spdadd { }":                  "x.conf:1: a block in braces in setkey.conf",
		"log info; spdflush;":                "x.conf:1: a statement of setkey.conf",
		"include;":                           "x.conf:1: include: expected one file name",
		strings.Repeat("a {", 20):            "x.conf:1: a block that belongs to nothing, or is in more than 8",
	} {
		_, err := convert.Convert(one(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, expected %q", text, err, want)
		}
	}
}

// Whatever a file says, the work is bounded: files that include themselves, remotes
// that inherit from each other, policies that all need each other.
func TestBounds(t *testing.T) {
	loop := one("include \"x.conf\";")
	loop.Include = func(string, string) ([]convert.Source, error) { return loop.Files, nil }
	wide := one("include \"x.conf\";")
	wide.Include = func(from, _ string) ([]convert.Source, error) {
		return []convert.Source{{Name: "y", Data: []byte("include x; include x; include x;")}, {Name: "z", Data: []byte("include x; include x;")}}, nil
	}
	var inherit, pairs, many strings.Builder
	inherit.WriteString("remote 10.0.0.0 {" + strings.Repeat("exchange_mode main;", 500) + "}")
	for i := range 5000 {
		fmt.Fprintf(&inherit, "remote 10.0.%d.%d inherit 10.0.0.0;", i/250, i%250+1)
		fmt.Fprintf(&many, "remote \"r%d\" { generate_policy on; }", i)
		fmt.Fprintf(&many, "sainfo anonymous { }")
		fmt.Fprintf(&pairs, "spdadd 10.0.%d.%d 10.1.0.0/16 any -P out ipsec esp/tunnel/192.0.2.1-172.16.%d.%d/require;add 172.16.0.1 172.16.%d.%d esp 0x999 -E null;", i/250, i%250, i/250, i%250, i/250, i%250)
	}
	for name, c := range map[string]struct {
		in   convert.Input
		want string // error; empty: converted
	}{
		"include of itself": {loop, "include each other"},
		"include of many":   {wide, ""},
		"inherit":           {one(inherit.String()), "too much is inherited"},
		"policies":          {one(pairs.String()), ""},
		"remotes × sainfos": {one(many.String()), ""},
		"long":              {one(strings.Repeat("#", convert.MaxFile+1)), "longer than"},
		"words":             {one(strings.Repeat("a ", 300_000)), "more than"},
		"statements":        {one(strings.Repeat("a;", 30_000)), "more than 20000 statements"},
	} {
		begin := time.Now()
		r, err := convert.Convert(c.in)
		if d := time.Since(begin); d > 20*time.Second {
			t.Errorf("%s: it took %v", name, d)
		}
		switch {
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, expected %q", name, err, c.want)
		case name == "include of many":
			if err == nil {
				t.Errorf("%s was accepted", name)
			}
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case err == nil:
			if n := len(r.YAML()); n > 8<<20 || len(r.Notes) > 1000 {
				t.Errorf("%s: %d octets, %d notes", name, n, len(r.Notes))
			}
			if !r.Insecure() {
				t.Errorf("%s: what was left out is not said", name)
			}
		}
	}
}

// No octets make it panic, and what comes out is printable, on one line for each note,
// with key files that stay in their directory.
func FuzzConvert(f *testing.F) {
	for _, data := range examples(f) {
		f.Add(data, []byte("192.0.2.2 secret\n"))
	}
	f.Add([]byte("path pre_shared_key x; remote anonymous { proposal { } }"), []byte("* 0x00\na\nb 0x\n"))
	f.Fuzz(func(t *testing.T, data, psk []byte) {
		in := one(string(data))
		in.PSK = func(_, n string) (convert.Source, error) { return convert.Source{Name: n, Data: psk}, nil }
		r, err := convert.Convert(in)
		if err != nil {
			return
		}
		for _, text := range []string{r.YAML(), r.TOML()} {
			if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\n' || c > 0x7e }) && len(r.Commands) == 0 {
				t.Fatalf("the output has octets that are not printable: %q", text)
			}
		}
		for _, n := range r.Notes {
			if strings.ContainsRune(n.What+n.Advice, '\n') {
				t.Fatalf("a note of two lines: %q", n)
			}
		}
		for _, k := range r.Keys {
			if k.Name != filepath.Base(k.Name) || k.Name == "." || k.Name == ".." || k.Data.Len() < 2 {
				t.Fatalf("key file %q", k.Name)
			}
		}
	})
}
