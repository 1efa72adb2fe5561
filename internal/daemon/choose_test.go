package daemon

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/spd"
)

func connections(t *testing.T, child string) []*conf.Connection {
	t.Helper()
	c, faults := conf.Parse("/nowhere/iked.yaml", []byte(`
connections:
  - name: office
    remote_addrs: [192.0.2.2]
    local: {auth: psk}
    remote: {auth: psk}
    children: [{name: net, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16]`+child+`}]
secrets: [{psk: "a-long-secret"}]
`), time.Now())
	if faults.Failed() {
		t.Fatal(faults.Err())
	}
	return c.Connections
}

// Which backend carries the traffic, and why: the kernel when it can carry all that
// is configured, else the userspace datapath, when that can. What was asked for by
// name is not replaced.
func TestChoose(t *testing.T) {
	noESP := kernelHas{unusable: "CONFIG_INET_ESP is not set", missing: []string{"CONFIG_INET_ESP is not set"}}
	good := kernelHas{info: backend.Info{Name: "kernel", Supports: func(p suite.Protocol, _ spd.Mode, encr, _ suite.Transform, _ bool) (bool, string) {
		return encr.ID != suite.EncrChaCha20Poly1305 && p == suite.ProtoESP, "CONFIG_CRYPTO_CHACHA20POLY1305 is not set"
	}}}
	odd := good
	odd.missing = []string{"CONFIG_INET_AH is not set"}
	some := errors.New("CONFIG_XFRM_INTERFACE is not set")
	for _, x := range []struct {
		name   string
		want   conf.Backend
		report kernelHas
		err    error
		child  string
		none   bool // no connection
		links  error
		got    conf.Backend
		says   string // in the reason, or in the error
	}{
		{name: "auto, no ESP", want: "auto", report: noESP, got: "userspace", says: "because CONFIG_INET_ESP is not set"},
		{name: "auto, unprivileged", want: "auto", err: errors.New("operation not permitted"), got: "userspace", says: "cannot be asked"},
		{name: "auto, nothing configured, no ESP", want: "auto", report: noESP, none: true, got: "userspace", says: "CONFIG_INET_ESP"},
		{name: "auto, device wanted, no ESP", want: "auto", report: noESP, child: ", interface: office0", says: "Userspace: connection office, child net: interface needs the kernel backend"},
		{name: "auto, policies of others, no ESP", want: "auto", report: noESP, child: ", policies: no, reqid: 7", says: "Userspace: connection office, child net: policies: no needs the kernel backend"},
		{name: "auto, policies of others", want: "auto", report: good, child: ", policies: no, reqid: 7", got: "kernel", says: "has what"},
		{name: "kernel, no ESP", want: "kernel", report: noESP, says: "CONFIG_INET_ESP is not set; boot a kernel that has it"},
		{name: "kernel, unprivileged", want: "kernel", err: errors.New("operation not permitted: it needs root, or CAP_NET_ADMIN"), says: "CAP_NET_ADMIN"},
		{name: "userspace", want: "userspace", report: good, got: "userspace", says: "as configured"},
		{name: "userspace, device wanted", want: "userspace", report: good, child: ", interface: office0", says: "interface needs the kernel backend"},
		{name: "kernel, device wanted, there are none", want: "kernel", report: good, child: ", interface: office0", links: some, says: "CONFIG_XFRM_INTERFACE is not set"},
		{name: "unknown", want: "magic", report: good, says: "expected auto, kernel or userspace"},
		{name: "auto, all there", want: "auto", report: good, got: "kernel", says: "has what the configuration needs"},
		{name: "auto, nothing configured", want: "auto", report: good, none: true, got: "kernel", says: "because the kernel has it"},
		{name: "auto, something else missing", want: "auto", report: odd, got: "kernel", says: "missing: CONFIG_INET_AH is not set"},
		{name: "kernel, something missing", want: "kernel", report: odd, got: "kernel", says: "missing: CONFIG_INET_AH is not set"},
		{name: "auto, a cipher is missing", want: "auto", report: good, child: ", esp_proposals: [chacha20poly1305-x25519]", got: "userspace", says: "because the kernel cannot carry all that is configured: connection office, child net: the kernel backend carries none of its proposals: CONFIG_CRYPTO_CHACHA20POLY1305"},
		{name: "auto, a cipher of two is missing", want: "auto", report: good, child: ", esp_proposals: [chacha20poly1305-aes128gcm16-x25519]", got: "kernel", says: "has what"},
		{name: "kernel, a cipher is missing", want: "kernel", report: good, child: ", esp_proposals: [chacha20poly1305-x25519]", says: "none of its proposals"},
		{name: "auto, device wanted, there are none", want: "auto", report: good, child: ", interface: office0", links: some, says: "Kernel: connection office, child net: interface office0 cannot be made: CONFIG_XFRM_INTERFACE"},
		{name: "auto, device wanted", want: "auto", report: good, child: ", interface: office0", got: "kernel", says: "has what"},
	} {
		t.Run(x.name, func(t *testing.T) {
			conns := connections(t, x.child)
			if x.none {
				conns = nil
			}
			c, err := choose(x.want, conns, prober{
				kernel:     func() (kernelHas, error) { return x.report, x.err },
				interfaces: func() error { return x.links },
			})
			if x.got == "" {
				if err == nil || strings.Count(err.Error(), x.says) != 1 {
					t.Errorf("%+v, %v, expected an error with %q once", c, err, x.says)
				}
				return
			}
			if err != nil || c.name != x.got || !strings.Contains(c.why, x.says) {
				t.Errorf("%+v, %v, expected %s with %q", c, err, x.got, x.says)
			}
		})
	}
}

// The description of the userspace datapath that the choice works with says what
// it says when it is open.
func TestDescriptionForTheChoice(t *testing.T) {
	gcm := suite.Transform{Type: suite.ENCR, ID: suite.EncrAESGCM16, KeyBits: 128}
	if ok, why := userspaceInfo().Supports(suite.ProtoESP, spd.Tunnel, gcm, suite.Transform{}, false); !ok {
		t.Errorf("userspace: %q", why)
	}
}

// --check says what would carry the traffic and opens nothing.
func TestCheckNamesTheBackend(t *testing.T) {
	var out bytes.Buffer
	o := Options{Stderr: &out}
	c := conf.Empty()
	c.Connections = connections(t, "")
	if err := checkBackend(&o, c); err != nil || !strings.Contains(out.String(), "backend: ") {
		t.Errorf("%v, %s", err, out.String())
	}
	o.Backend = "magic"
	out.Reset()
	if err := checkBackend(&o, c); err == nil && !strings.Contains(out.String(), "not known without privilege") {
		t.Errorf("backend magic: %v, %s", err, out.String())
	}
}
