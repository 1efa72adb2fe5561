package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"iked/internal/doccheck"
)

var (
	buildOnce  sync.Once
	buildDir   string
	built      Binaries
	buildError error
)

func TestMain(m *testing.M) {
	code := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	if err := matrix.write(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// binaries builds iked and ikectl once for all tests.
func binaries(t *testing.T) Binaries {
	t.Helper()
	buildOnce.Do(func() {
		if buildDir, buildError = os.MkdirTemp("", "interop-build-"); buildError != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		built, buildError = Build(ctx, buildDir)
	})
	if buildError != nil {
		t.Fatal(buildError)
	}
	return built
}

// substitute puts a second strongSwan in the place of iked: with
// INTEROP_SUBSTITUTE=strongswan the matrix tests itself, and a case that fails
// then is no fault of iked.
func substitute() bool { return os.Getenv("INTEROP_SUBSTITUTE") == "strongswan" }

// row is one line of the matrix: what a case saw.
type row struct {
	group, name, role, ike, esp, result string
	order                               int
}

type results struct {
	mu   sync.Mutex
	rows []row
}

var matrix results

func (r *results) add(x row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, x)
}

// write leaves the matrix in a temporary file, and with IKED_WRITE_MATRIX=1 in
// docs/interop.md.
func (r *results) write() error {
	if len(r.rows) == 0 {
		return nil
	}
	text := r.markdown()
	artefact := filepath.Join(os.TempDir(), fmt.Sprintf("iked-interop-%d.md", os.Getpid()))
	if err := os.WriteFile(artefact, []byte(text), 0o644); err != nil {
		return fmt.Errorf("matrix: %w", err)
	}
	fmt.Println("matrix:", artefact)
	if os.Getenv("IKED_WRITE_MATRIX") != "1" {
		return nil
	}
	if substitute() {
		return fmt.Errorf("matrix: not written to docs: iked took no part")
	}
	return doccheck.WriteSection(filepath.Join("..", "docs", "interop.md"), "userspace", text)
}

func (r *results) markdown() string {
	sort.SliceStable(r.rows, func(i, j int) bool {
		if r.rows[i].order != r.rows[j].order {
			return r.rows[i].order < r.rows[j].order
		}
		return r.rows[i].role < r.rows[j].role
	})
	peer := "strongSwan"
	if out, err := exec.Command("swanctl", "--version").Output(); err == nil {
		peer = strings.TrimSpace(string(out))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `Peer: Debian's %s with kernel-libipsec, in network namespaces.

| case | iked is | IKE SA | CHILD SA | result |
|---|---|---|---|---|
`, peer)
	group := ""
	for _, x := range r.rows {
		if x.group != group {
			group = x.group
			fmt.Fprintf(&b, "| **%s** | | | | |\n", group)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", x.name, x.role, x.ike, x.esp, x.result)
	}
	return b.String()
}

func TestConfigurationIsTheSameForBoth(t *testing.T) {
	c := Config{
		Connections: Section{{"net", Section{
			{"version", "2"}, {"local_addrs", []string{"192.0.2.1"}}, {"mobike", "no"},
			{"local", Section{{"auth", "psk"}}},
			{"children", Section{{"c", Section{{"local_ts", []string{"10.1.0.0/24", "fd00:1::/64"}}, {"rekey_time", "1h"}}}}},
		}}},
		Secrets: []Secret{{PSK: "0x12", IDs: []string{"a"}}},
	}
	wantYAML := `connections:
  - name: net
    version: 2
    local_addrs: ["192.0.2.1"]
    mobike: false
    local:
      auth: "psk"
    children:
      - name: c
        local_ts: ["10.1.0.0/24", "fd00:1::/64"]
        rekey_time: "1h"
secrets:
  - psk: "0x12"
    id: ["a"]
`
	if got := c.YAML(); got != wantYAML {
		t.Errorf("YAML for iked\n got\n%s\nwant\n%s", got, wantYAML)
	}
	for _, want := range []string{"local_ts = \"10.1.0.0/24, fd00:1::/64\"\n", "children {\n      c {\n", "id-0 = \"a\"\n"} {
		if got := c.Swanctl(); !strings.Contains(got, want) {
			t.Errorf("swanctl.conf lacks %q:\n%s", want, got)
		}
	}
}
