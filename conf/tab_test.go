package conf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A tab in the indentation is named with its line, in words that say what to do.
func TestTabs(t *testing.T) {
	for text, line := range map[string]string{
		"connections:\n  - name: office\n\t  remote_addrs: [192.0.2.1]\n": ":3:",
		"\tconnections: []\n":              ":1:",
		"connections:\n\t- name: office\n": ":2:",
	} {
		path := filepath.Join(t.TempDir(), "iked.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, faults := Load(path, time.Time{})
		if !faults.Failed() || !strings.Contains(faults[0].Error(), path+line) || !strings.Contains(faults[0].Error(), "tab") {
			t.Errorf("%q: %v", text, faults)
		}
	}
	// A tab that separates is no fault.
	path := filepath.Join(t.TempDir(), "iked.yaml")
	if err := os.WriteFile(path, []byte("port:\t1500\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, faults := Load(path, time.Time{}); faults.Failed() {
		t.Error(faults)
	}
}
