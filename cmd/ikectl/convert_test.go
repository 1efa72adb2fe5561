package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// convertFiles writes files into a new directory.
func convertFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	convertRacoon = `path pre_shared_key "psk.txt";
remote 192.0.2.2 { exchange_mode main; proposal { encryption_algorithm aes 256; hash_algorithm sha256; authentication_method pre_shared_key; dh_group 14; } }
sainfo anonymous { encryption_algorithm aes 256; authentication_algorithm hmac_sha256; compression_algorithm lzs; }
`
	convertSetkey = `spdadd 10.1.0.0/16 10.2.0.0/16 any -P out ipsec esp/tunnel/192.0.2.1-192.0.2.2/require;
spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;
`
)

// Keys go to files that only their owner may read, and to no stream; a file that is
// there already is not touched, and none of the others stays.
func TestConvertSecrets(t *testing.T) {
	dir := convertFiles(t, map[string]string{"main.conf": "include \"racoon.conf\";\n", "racoon.conf": convertRacoon, "setkey.conf": convertSetkey, "psk.txt": "192.0.2.2 hunter2hunter2\n192.0.2.3 other-secret\n"})
	secrets := filepath.Join(dir, "new", "secrets")
	args := []string{"convert", "--secrets-dir", secrets, filepath.Join(dir, "main.conf"), filepath.Join(dir, "setkey.conf")}
	var out, errs bytes.Buffer
	if code := run(context.Background(), args, &out, &errs); code != exitDone {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	for _, want := range []string{"remote_addrs: [\"192.0.2.2\"]", "psk: \"file:" + secrets + "/psk-192.0.2.2\"", "esp_proposals: [aes256-sha256]"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing in\n%s", want, out.String())
		}
	}
	file := filepath.Join(secrets, "psk-192.0.2.2")
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", st, err)
	}
	if b, _ := os.ReadFile(file); string(b) != "hunter2hunter2\n" {
		t.Errorf("the key file has %d octets", len(b))
	}
	if strings.Contains(out.String()+errs.String(), "hunter2") {
		t.Error("a key was printed")
	}

	// Once more: the first file is new, the second is there.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	errs.Reset()
	if code := run(context.Background(), args, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "is there already") || out.Len() > 0 {
		t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a run that failed left a key behind")
	}
}

// Exit codes and formats: what was left out of the protection is a failure, and so is
// a file that is not understood, with its line.
func TestConvertExit(t *testing.T) {
	dir := convertFiles(t, map[string]string{"racoon.conf": convertRacoon, "setkey.conf": convertSetkey, "bad.conf": "log info;\nremote {",
		"both.conf": "spdadd 10.1.0.1 10.2.0.1 any -P out ipsec ah/transport//require esp/transport//require;\n"})
	for _, c := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{"racoon.conf", "setkey.conf"}, exitDone, "connections:\n", "--secrets-dir"},
		{[]string{"-o", "toml", "racoon.conf", "setkey.conf"}, exitDone, "[[connections.children]]", "racoon.conf:3: compression_algorithm lzs"},
		{[]string{"racoon.conf"}, exitFailed, "connections:\n", "racoon.conf:2: remote 192.0.2.2: no policy says"},
		{[]string{"both.conf"}, exitFailed, "", "both.conf:1: spdadd"},
		{[]string{"bad.conf"}, exitFailed, "", "bad.conf:2: "},
		{[]string{"missing.conf"}, exitUsage, "", "no such file"},
		{[]string{"-o", "json", "racoon.conf"}, exitUsage, "", "expected yaml or toml"},
		{nil, exitUsage, "", "a file is missing"},
	} {
		args := []string{"convert"}
		for _, a := range c.args {
			if strings.HasSuffix(a, ".conf") {
				a = filepath.Join(dir, a)
			}
			args = append(args, a)
		}
		var out, errs bytes.Buffer
		code := run(context.Background(), args, &out, &errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.err) {
			t.Errorf("%v: exit code %d\n%s%s", c.args, code, out.String(), errs.String())
		}
	}
}
