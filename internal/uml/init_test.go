package uml

import (
	"os/exec"
	"testing"
)

// What the kernel asks for by a name that no module has is refused without a
// modprobe, whatever is in the name; the rest gets to modprobe as it is.
func TestModprobeScript(t *testing.T) {
	script := modprobeScript([]string{"crypto-ecb(arc4)", "crypto-cbc", "net-pf-15"}, "echo")
	for name, asks := range map[string]bool{
		"crypto-ecb(arc4)": true, "crypto-cbc": true, "net-pf-15": true, "tun": true, "net-pf-16": true,
		"crypto-hmac(sha256)": false, "crypto-cbc-all": false, "crypto-*": false,
	} {
		out, err := exec.Command("sh", "-c", script, "sh", "-q", "--", name).Output()
		if asks && (err != nil || string(out) != "-d /run/uml -q -- "+name+"\n") || !asks && (err == nil || len(out) > 0) {
			t.Errorf("%s: %q %v", name, out, err)
		}
	}
}
