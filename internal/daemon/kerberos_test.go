package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/kink/krb/krbtest"
)

// --check says what is wrong with keytabs and krb5.conf before a KDC is asked: a file
// that is not there, one that everybody may read, types that do not exist.
func TestCheckKerberos(t *testing.T) {
	dir := t.TempDir()
	world := krbtest.New(time.Now)
	p := world.Realm("EXAMPLE.ORG").Principal("kink/a.example.org")
	write := func(name string, data []byte, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("good.keytab", world.Keytab(p), 0o600)
	write("open.keytab", world.Keytab(p), 0o644)
	write("bad.keytab", []byte("no keytab"), 0o600)
	good, bad := write("krb5.conf", []byte("[libdefaults]\n default_realm = EXAMPLE.ORG\n"), 0o644), write("bad.conf", []byte("[libdefaults\n"), 0o644)
	for _, c := range []struct {
		conf, keytab, top string
		fails             bool
		want              string
	}{
		{good, "good.keytab", "", false, "no faults"},
		{good, "open.keytab", "", false, "can be read or written by every user (mode 0644)"},
		{good, "bad.keytab", "", false, "bad.keytab"},
		{good, "none.keytab", "", false, "none.keytab"},
		{bad, "good.keytab", "", true, "bad.conf"},
		{good, "good.keytab", "krb5_etypes: [rot13]\n", true, "rot13"},
	} {
		text := fmt.Sprintf("krb5_conf: %s\n%sconnections:\n  - name: a\n    version: kink\n    local: {id: %s, keytab: %s}\n    remote: {id: kink/b.example.org@EXAMPLE.ORG}\n    children: [{name: net}]\n", c.conf, c.top, p, c.keytab)
		var out sink
		err := Run(context.Background(), Options{Config: write("iked.yaml", []byte(text), 0o600), Check: true, Stderr: &out})
		if errors.Is(err, ErrConfig) != c.fails || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s, %s: %v\n%s", c.keytab, c.top, err, out.String())
		}
	}
}
