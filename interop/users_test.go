package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

const (
	radiusSecret = "0123456789abcdef-secret"
	radiusUsers  = "bob Cleartext-Password := \"open sesame\"\n  Framed-IP-Address = 10.9.0.7\n"
)

func requireRADIUS(t *testing.T) {
	t.Helper()
	testnet.RequireCommand(t, FreeRADIUSPath, "freeradius")
}

// radiusServer starts a RADIUS server beside B.
func radiusServer(p *pair) {
	p.Helper()
	requireRADIUS(p.T)
	startRADIUS(p.T, p.Net, p.GwB, FreeRADIUSOptions{Secret: radiusSecret, Users: radiusUsers})
}

func startRADIUS(t *testing.T, n *testnet.Net, ns *testnet.Namespace, o FreeRADIUSOptions) {
	t.Helper()
	s, err := StartFreeRADIUS(within(t, 20*time.Second), ns, n.Path("radius-"+ns.Name), o)
	if err != nil {
		t.Fatal(err)
	}
	showLog(t, s)
}

const radiusYAML = "radius:\n  - {name: free, address: 127.0.0.1, secret: " + radiusSecret + "}\n"

// radiusUser makes A a user of XAuth that B asks RADIUS about.
func radiusUser(s side, conn, child *Section, c *Config) {
	user(s, conn, child, c)
	if s.name == "b" {
		conn.Set("remote-2", Section{{"auth", "xauth-radius"}})
		c.Secrets = c.Secrets[:1]
		c.IkedGlobal = radiusYAML
	}
}

// pamUser makes A a user of XAuth that B asks PAM about: strongSwan itself, iked by
// the program that it ships. The service decides by a program of its own.
type pamUser struct{ dir, service string }

// newPAM writes the service, for as long as the test runs.
func newPAM(t *testing.T) *pamUser {
	t.Helper()
	testnet.RequireRoot(t)
	testnet.RequireCommand(t, "/usr/lib/python3/dist-packages/pamela.py", "python3-pamela")
	dir, err := os.MkdirTemp("/var/lib", "iked-pam-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u := &pamUser{dir: dir, service: filepath.Base(dir)}
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	check := filepath.Join(dir, "check")
	write(check, "#!/bin/sh\n[ \"$PAM_USER\" = bob ] && [ \"$(tr -d '\\0')\" = 'open sesame' ]\n", 0o755)
	service := "/etc/pam.d/" + u.service
	t.Cleanup(func() { os.Remove(service) })
	write(service, fmt.Sprintf("auth required pam_exec.so expose_authtok quiet %s\naccount required pam_permit.so\n", check), 0o644)
	program, err := os.ReadFile("../packaging/xauth-pam")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(program), `service="iked"`, fmt.Sprintf("service=%q", u.service), 1)
	if text == string(program) {
		t.Fatal("packaging/xauth-pam names its service in another way")
	}
	write(filepath.Join(dir, "hook"), text, 0o755)
	return u
}

func (u *pamUser) edit(s side, conn, child *Section, c *Config) {
	user(s, conn, child, c)
	if s.name == "b" {
		conn.Set("remote-2", Section{{"auth", "xauth-pam"}})
		c.Secrets = c.Secrets[:1]
		c.IkedGlobal = "xauth_hook: " + filepath.Join(u.dir, "hook") + "\n"
	}
}

// Users that PAM knows, in both roles; with a wrong password nothing comes up.
func TestPAM(t *testing.T) {
	for _, at := range []string{"A", "B"} {
		for _, wrong := range []bool{false, true} {
			t.Run(fmt.Sprintf("iked at %s, wrong password %t", at, wrong), func(t *testing.T) {
				t.Parallel()
				requireCharon(t)
				u := newPAM(t)
				c := v1(testCase{plugins: "xauth-pam", charon: "plugins { xauth-pam { pam_service = " + u.service + "\n } }\n"}, byAddress, u.edit, guess(wrong))
				p := newPair(t, &c, at)
				p.userDecides(wrong)
				if wrong && at == "B" {
					p.logs("the program of xauth_hook refuses the user")
				}
			})
		}
	}
}

// The program inherits no descriptor of the daemon's: sockets, devices, sockets of
// the kernel's; and no capability beyond the daemon's.
func TestHookInheritsNothing(t *testing.T) {
	t.Parallel()
	requireCharon(t)
	dir, err := os.MkdirTemp("/var/lib", "iked-hook-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text := "#!/bin/sh\nls -l /proc/$$/fd >" + dir + "/fds\ngrep -E 'CapEff|NoNewPrivs' /proc/self/status >" + dir + "/caps\n"
	if err := os.WriteFile(filepath.Join(dir, "hook"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	c := v1(testCase{}, byAddress, (&pamUser{dir: dir}).edit)
	p := newPair(t, &c, "B")
	p.userDecides(false)
	fds, err := os.ReadFile(filepath.Join(dir, "fds"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(fds)) {
		_, link, ok := strings.Cut(line, " -> ")
		if !ok {
			continue
		}
		n++
		if link = strings.TrimSpace(link); link != "/dev/null" && !strings.HasPrefix(link, "pipe:") && !strings.HasPrefix(link, dir) {
			t.Errorf("open: %s", line)
		}
	}
	if n < 3 {
		t.Errorf("descriptors:\n%s", fds)
	}
	caps, err := os.ReadFile(filepath.Join(dir, "caps"))
	// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW.
	if err != nil || !strings.Contains(string(caps), "0000000000003400\n") || !strings.Contains(string(caps), "NoNewPrivs:\t1") {
		t.Errorf("%s %v", caps, err)
	}
}

// Users that FreeRADIUS knows, in both roles; iked takes no answer without
// Message-Authenticator (CVE-2024-3596), and gives the user the address that the
// server names.
func TestRADIUS(t *testing.T) {
	for _, at := range []string{"A", "B"} {
		for _, wrong := range []bool{false, true} {
			t.Run(fmt.Sprintf("iked at %s, wrong password %t", at, wrong), func(t *testing.T) {
				t.Parallel()
				requireCharon(t)
				c := v1(testCase{plugins: "eap-radius", before: radiusServer,
					charon: "plugins { eap-radius { servers { free { address = 127.0.0.1\n secret = " + radiusSecret + "\n } } } }\n"}, byAddress, radiusUser, guess(wrong))
				p := newPair(t, &c, at)
				p.userDecides(wrong)
				if wrong && at == "B" {
					p.logs("the RADIUS server refuses the user")
				}
			})
		}
	}
	t.Run("no Message-Authenticator", func(t *testing.T) {
		t.Parallel()
		requireCharon(t)
		c := v1(testCase{before: func(p *pair) {
			requireRADIUS(p.T)
			startRADIUS(p.T, p.Net, p.GwB, FreeRADIUSOptions{Secret: radiusSecret, Users: radiusUsers, Bare: true})
		}}, byAddress, radiusUser)
		p := newPair(t, &c, "B")
		p.userDecides(true)
		for _, want := range []string{"no Message-Authenticator", "no RADIUS server answers"} {
			p.logs(want)
		}
	})
	t.Run("Framed-IP-Address", func(t *testing.T) {
		t.Parallel()
		requireCharon(t)
		c := v1(testCase{before: radiusServer}, byAddress, radiusUser, virtualIP("0.0.0.0", "10.9.0.0/28"))
		p := newPair(t, &c, "B")
		if err := p.a.Initiate(p.ctx, "net"); err != nil {
			t.Fatal(err)
		}
		fromVirtualIP(hostB4)(p)
		if s := p.agree("net"); s.ikeA.LocalVIPs[0] != "10.9.0.7" {
			t.Errorf("the address is %v", s.ikeA.LocalVIPs)
		}
	})
}

// logs waits until iked's log has a text.
func (p *pair) logs(want string) {
	p.Helper()
	for !strings.Contains(p.iked.Process.Log(), want) {
		if sleep(p.ctx, 50*time.Millisecond) != nil {
			p.Fatalf("the log does not say %q", want)
		}
	}
}

// guess makes A use a wrong password.
func guess(wrong bool) func(s side, conn, child *Section, c *Config) {
	return func(s side, _, _ *Section, c *Config) {
		if wrong && s.name == "a" {
			c.Secrets[1].PSK = "guess"
		}
	}
}

// userDecides initiates: the user is B's peer and packets pass, or nothing comes up.
func (p *pair) userDecides(wrong bool) {
	p.Helper()
	err := p.a.Initiate(p.ctx, "net")
	if wrong {
		if err == nil {
			p.Fatal("the user was let in")
		}
		list, err := p.b.SAs(p.ctx)
		if err != nil {
			p.Fatal(err)
		}
		for _, sa := range list {
			if sa.Child("net", "INSTALLED") != nil {
				p.Fatalf("B lists %+v", sa)
			}
		}
		return
	}
	if err != nil {
		p.Fatal(err)
	}
	isBob(p, p.agree("net"))
	p.echo(p.HostA, p.HostB4, testnet.PingOptions{Count: 3})
}
