// Package archtest holds the rule of who may import whom against the code.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rule forbids packages to packages. Names are patterns of path.Match against the
// import path without the module; a trailing /... stands for the package and all
// below it. Standard library packages are written as they are.
type rule struct {
	packages  string
	forbidden []string
	// deep: not through other packages either.
	deep   bool
	reason string
}

// pure are the protocol packages: bytes and a time go in, values come out.
var pure = []string{"ikev2/...", "internal/keyex", "internal/isakmp", "internal/ident", "spd", "sad", "crypto/...", "beet", "migrate/...", "ikev1/...", "kink", "kink/message", "kink/der", "kink/krb/krb5", "xfrm/wire", "internal/convert"}

func rules() []rule {
	list := []rule{
		{"ikev2/...", []string{"ikev1/...", "kink/...", "vici/...", "xfrm/...", "datapath/...", "internal/engine", "internal/daemon", "internal/transport/...", "internal/backend"}, true, "a state machine knows neither the other protocols nor what drives it"},
		{"internal/keyex", []string{"ikev2/...", "ikev1/...", "kink/...", "conf", "internal/engine", "internal/backend"}, true, "the contract knows neither the key exchanges nor who drives them"},
		{"ikev1/...", []string{"ikev2/..."}, true, "the two versions share internal/isakmp only"},
		{"kink", []string{"ikev2/...", "ikev1", "kink/krb", "vici/...", "xfrm/...", "datapath/...", "internal/engine", "internal/daemon", "internal/transport/...", "internal/backend"}, true, "KINK reuses the payloads of IKEv1 and their offers, not its state machine, and sees Kerberos through its own interface"},
		{"kink/message", []string{"kink", "kink/krb", "spd", "sad", "internal/secret"}, false, "the codec needs the header, the payload chain and the payloads of Quick Mode only"},
		{"ikev1/offer", []string{"ikev1", "kink/..."}, true, "two key exchanges stand on it"},
		{"ikev2/message", []string{"ikev2", "spd", "sad", "internal/pki", "internal/secret"}, false, "the codec needs the header, the payload chain and the transform numbers only"},
		{"datapath/...", []string{"xfrm/...", "ikev2/...", "ikev1/...", "conf", "internal/engine", "internal/daemon", "vici/..."}, true, "a backend carries packets and knows no key exchange"},
		{"xfrm/...", []string{"datapath/...", "ikev2/...", "ikev1/...", "conf", "internal/engine", "internal/daemon", "vici/..."}, true, "a backend carries packets and knows no key exchange"},
		{"xfrm/wire", []string{"os", "net", "golang.org/x/sys/unix", "github.com/vishvananda/netlink"}, false, "the netlink codec is pure"},
		{"spd", []string{"sad", "ikev2/...", "internal/..."}, false, "spd stands on the prefix library only"},
		{"beet", []string{"ikev2/...", "datapath/...", "xfrm/...", "internal/engine", "internal/backend"}, true, "both backends stand on it, and it knows spd and sad only"},
		{"migrate", []string{"ikev2/...", "ikev1/...", "xfrm/...", "datapath/...", "internal/engine", "internal/backend"}, true, "the plan knows addresses, and nobody who acts on it or tells of a move"},
		{"sad", []string{"ikev2/...", "datapath/...", "xfrm/..."}, true, "records of SAs know nobody who makes or uses them"},
		{"crypto/...", []string{"spd", "sad", "ikev2/...", "conf", "internal/engine"}, true, "algorithms only"},
		{"internal/engine", []string{"xfrm/...", "datapath/...", "internal/transport/...", "internal/daemon", "vici/...", "github.com/sirupsen/logrus", "github.com/spf13/viper"}, false, "the engine sees sockets, backends and logs through its interfaces"},
		{"vici/...", []string{"internal/daemon", "xfrm/...", "datapath/...", "internal/transport/...", "github.com/sirupsen/logrus"}, false, "the control protocol sees the engine only"},
		{"conf", []string{"ikev2/...", "internal/engine", "internal/daemon", "vici/...", "datapath/..."}, true, "the model depends on nobody who acts on it"},
		{"internal/transport/...", []string{"ikev2/...", "conf", "internal/engine", "datapath/..."}, true, "sockets know no protocol"},
		{"cmd/iked", []string{"internal/engine", "conf", "ikev2/...", "vici/...", "datapath/..."}, false, "main parses flags; internal/daemon wires"},
		{"cmd/ikectl", []string{"internal/engine", "internal/daemon", "ikev2/...", "datapath/...", "vici"}, true, "the client speaks the control protocol and knows nothing of the daemon's insides"},
		{"cmd/iked", []string{"plugin"}, true, "the daemon loads no code"},
		{"internal/radius", []string{"conf", "internal/engine", "internal/daemon", "ikev1/..."}, true, "the client of RADIUS knows nobody who asks"},
		{"internal/userhook", []string{"conf", "internal/engine", "internal/daemon", "ikev1/..."}, true, "who runs the program knows nobody who asks"},
		{"internal/pki", []string{"net/http", "os/exec"}, true, "certificates of strangers name places, and nothing fetches from them"},
		{"kink/krb/...", []string{"ikev1", "ikev2/...", "conf", "internal/engine", "internal/daemon", "vici/...", "datapath/...", "xfrm/..."}, true, "Kerberos knows the contract with KINK only"},
		{"interop/mip6", []string{"ikev1/...", "ikev2/...", "kink/...", "conf", "internal/engine", "internal/daemon", "vici/..."}, true, "the mobility manager of the tests tells the kernel what mip6d tells it, and knows nothing of IKE"},
		{"...", []string{"kink/krb/krbtest"}, false, "the KDC for tests is in no program"},
		{"...", []string{"cmd/..."}, false, "a main package is imported by nobody"},
	}
	for _, p := range pure {
		list = append(list,
			rule{p, []string{"net", "os", "syscall", "log", "log/slog", "os/exec", "golang.org/x/sys/unix"}, false, "protocol packages do no input or output (net/netip is no I/O)"},
			rule{p, []string{"github.com/sirupsen/logrus", "github.com/spf13/viper", "github.com/vishvananda/netlink", "conf"}, true, "protocol packages know neither log, configuration nor kernel"})
	}
	for _, p := range []string{"ikev2/...", "ikev1/...", "kink", "spd", "sad", "crypto/...", "datapath/...", "vici/...", "cmd/ikectl", "internal/transport/...", "internal/engine", "xfrm/..."} {
		list = append(list, rule{p, []string{"github.com/sirupsen/logrus"}, true, "only internal/daemon writes logs"})
	}
	list = append(list, only("github.com/jcmturner/gokrb5/v8/...", "kink/krb/...")...)
	return append(list, only("github.com/sirupsen/logrus", "internal/daemon")...)
}

// only says that one package alone imports a library.
func only(library, owner string) []rule {
	return []rule{{"!" + owner, []string{library}, false, "only " + owner + " imports " + library}}
}

// pkg is what `go list -json` tells.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Name       string
	GoFiles    []string
}

const module = "iked"

// Every import of the module, direct or through others, obeys the table: the
// architecture is checked, not remembered.
func TestImports(t *testing.T) {
	list := goList(t)
	used := make([]bool, len(rules()))
	for _, p := range list {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for i, r := range rules() {
			if !applies(r.packages, name) {
				continue
			}
			used[i] = true
			imports := p.Imports
			if r.deep {
				imports = p.Deps
			}
			for _, imp := range imports {
				for _, f := range r.forbidden {
					if matches(f, short(imp)) && short(imp) != name {
						t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.reason)
					}
				}
			}
		}
		if name == "crypto" && len(p.GoFiles) > 0 {
			t.Errorf("crypto/ has code at its root, where it shadows the standard package")
		}
	}
	for i, r := range rules() {
		dir := strings.TrimSuffix(r.packages, "/...")
		if !used[i] && exists(list, dir) {
			t.Errorf("the rule for %s matches no package", r.packages)
		}
	}
}

// One package of the daemon runs programs, that of the user hook, so that nothing of
// a peer's reaches a shell by another way; libraries count as well (CVE-2023-28771
// and CVE-2022-40617 classes).
func TestPrograms(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}} {{join .Imports \" \"}}{{end}}", module+"/cmd/iked")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var runs []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) > 1 && slices.Contains(f[1:], "os/exec") {
			runs = append(runs, f[0])
		}
	}
	if want := []string{module + "/internal/userhook"}; !slices.Equal(runs, want) {
		t.Errorf("%v run programs, expected %v", runs, want)
	}
}

// Protocol packages take the time as an argument and start no goroutine, so that
// an hour of retransmission is a test of microseconds.
func TestPureSources(t *testing.T) {
	seen := 0
	for _, p := range goList(t) {
		if !slices.ContainsFunc(pure, func(x string) bool { return matches(x, short(p.ImportPath)) }) {
			continue
		}
		for _, name := range p.GoFiles {
			seen++
			file := filepath.Join("../..", short(p.ImportPath), name)
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s starts a goroutine: the engine alone does", file)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}, n.Sel.Name) {
						t.Errorf("%s uses time.%s: the time is an argument", file, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
	if seen < 10 {
		t.Fatalf("only %d source files were looked at", seen)
	}
}

// The matcher itself tells what it should: a table that matches nothing would
// pass for ever.
func TestMatcher(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"ikev2/...", "ikev2", true}, {"ikev2/...", "ikev2/message", true}, {"ikev2/...", "ikev2x", false},
		{"net", "net", true}, {"net", "net/netip", false}, {"...", "spd", true}, {"crypto/...", "crypto/suite", true},
		{"!internal/daemon", "vici", true}, {"!internal/daemon", "internal/daemon", false},
	} {
		if got := applies(c.pattern, c.name); got != c.want {
			t.Errorf("pattern %s on %s: %v, expected %v", c.pattern, c.name, got, c.want)
		}
	}
	if matches("crypto/...", short("crypto/sha256")) {
		t.Error("the standard library's crypto was taken for the module's")
	}
}

// short is the path within the module; what is not of the module and could be
// confused with it gets a mark.
func short(imp string) string {
	if imp == module {
		return ""
	}
	if s, ok := strings.CutPrefix(imp, module+"/"); ok {
		return s
	}
	if strings.HasPrefix(imp, "crypto/") {
		return "std:" + imp
	}
	return imp
}

func applies(pattern, name string) bool {
	if p, ok := strings.CutPrefix(pattern, "!"); ok {
		return !matches(p, name)
	}
	return matches(pattern, name)
}

func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == dir || strings.HasPrefix(name, dir+"/")
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

func exists(list []pkg, dir string) bool {
	for _, p := range list {
		if n := short(p.ImportPath); n == dir || strings.HasPrefix(n, dir+"/") {
			return true
		}
	}
	return false
}

func goList(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports,Deps,Name,GoFiles", module+"/...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var list []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/") {
			list = append(list, p)
		}
	}
	if len(list) < 5 {
		t.Fatalf("go list found %d packages of the module", len(list))
	}
	return list
}
