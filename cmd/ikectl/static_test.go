package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iked/vici/wire"
)

// ctl runs ikectl and gives its exit code and what it wrote.
func ctl(t *testing.T, uri string, args ...string) (code int, text string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), append([]string{"--control", uri}, args...), &out, &err)
	return code, out.String() + err.String()
}

// Keys come from files that only their owner may read, and are never shown; what
// is wrong with the words is a usage error before anything is sent.
func TestStaticWords(t *testing.T) {
	uri := daemonAt(t, answers(map[string]answer{
		"version":       {reply: message("daemon", "iked")},
		"static-sa-add": {reply: message("success", "yes", "reqid", "0x40000000")},
	}))
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", "# comment\n\nencr_key=0x00:01:02:03\n", 0o600)
	if code, text := ctl(t, uri, "sa", "add", "dir=out", "--key-file", good); code != exitDone || !strings.Contains(text, "reqid 0x40000000") {
		t.Errorf("exit %d: %s", code, text)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sa", "add", "dir=out"}, "--key-file"},
		{[]string{"sa", "add", "encr_key=c0ffee", "--key-file", good}, "every user"},
		{[]string{"sa", "add", "dir", "--key-file", good}, "KEY=VALUE"},
		{[]string{"sa", "add", "dir=in", "dir=out", "--key-file", good}, "twice"},
		{[]string{"sa", "add", "--key-file", filepath.Join(dir, "none")}, "no such file"},
		{[]string{"sa", "add", "--key-file", file("open", "encr_key=c0ffee", 0o640)}, "chmod 600"},
		{[]string{"sa", "add", "--key-file", file("odd", "encr_key=c0ffe", 0o600)}, "hexadecimal"},
		{[]string{"sa", "add", "--key-file", file("word", "c0ffee", 0o600)}, "neither encr_key="},
		{[]string{"sa", "add", "--file", good, "dir=out"}, "--file has everything"},
		{[]string{"sa", "turn"}, "unknown command"},
		{[]string{"policy"}, "missing"},
	} {
		code, text := ctl(t, uri, c.args...)
		if code != exitUsage || !strings.Contains(text, c.want) {
			t.Errorf("%v: exit %d, %s; expected %d and %q", c.args, code, text, exitUsage, c.want)
		}
		if strings.Contains(text, "c0ffe") {
			t.Errorf("%v: a key is shown: %s", c.args, text)
		}
	}
}

// An export with keys makes a file that did not exist, for its owner alone, and
// shows nothing of it; one without has no key even when the daemon sends some.
func TestStaticExport(t *testing.T) {
	sa := message("dir", "out", "spi", "0x00001000", "reqid", "0x40000000")
	sa.SetList("local_ts", "10.1.0.0/16", "10.3.0.0/16")
	sa.SetBytes("encr_key", []byte{0xc0, 0xff, 0xee})
	uri := daemonAt(t, answers(map[string]answer{
		"version":    {reply: message("daemon", "iked")},
		"static-sas": {event: "static-sa", events: []wire.Message{sa}},
		"list-sas":   {event: "list-sa"},
	}))
	for _, args := range [][]string{{"sa", "export"}, {"sa", "export", "-o", "json"}, {"sas"}} {
		if code, text := ctl(t, uri, args...); code != exitDone || strings.Contains(text, "c0ffee") || !strings.Contains(text, "0x40000000") {
			t.Errorf("%v: exit %d: %s", args, code, text)
		}
	}
	path := filepath.Join(t.TempDir(), "saved")
	if code, text := ctl(t, uri, "sa", "export", "--with-keys", path); code != exitDone || strings.Contains(text, "c0ffee") {
		t.Errorf("exit %d: %s", code, text)
	}
	b, err := os.ReadFile(path)
	st, _ := os.Stat(path)
	if want := "dir=out spi=0x00001000 reqid=0x40000000 local_ts=10.1.0.0/16,10.3.0.0/16 encr_key=c0ffee\n"; err != nil || string(b) != want || st.Mode().Perm() != 0o600 {
		t.Errorf("file %q, mode %v, %v; expected %q", b, st.Mode(), err, want)
	}
	if code, _ := ctl(t, uri, "sa", "export", "--with-keys", path); code != exitUsage {
		t.Errorf("a file that is there: exit %d", code)
	}
}
