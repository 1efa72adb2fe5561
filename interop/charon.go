package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"iked/internal/testnet"
)

// CharonPath is strongSwan's daemon in Debian.
const CharonPath = "/usr/lib/ipsec/charon"

// CharonPackages are the Debian packages that the harness needs.
const CharonPackages = "strongswan-charon strongswan-swanctl libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins"

// swanctlFolders are beside swanctl.conf; swanctl complains about each that is not
// there.
var swanctlFolders = []string{"x509", "x509ca", "x509ocsp", "x509aa", "x509ac", "x509crl", "pubkey", "private", "rsa", "ecdsa", "bliss", "pkcs8", "pkcs12"}

// Charon is a running strongSwan daemon, with kernel-libipsec, its userspace ESP
// (tunnel mode in UDP encapsulation only), unless the kernel's is asked for.
type Charon struct {
	Control
	// Dir is the folder that swanctl loads: swanctl.conf, x509, x509ca, private.
	Dir     string
	Process *testnet.Process
}

// CharonOptions shapes StartCharon.
type CharonOptions struct {
	// Settings are added to the section charon of strongswan.conf.
	Settings string
	// Plugins are loaded beside the usual ones.
	Plugins string
	// LogLevel of all groups, 1 when 0.
	LogLevel int
	// Kernel leaves ESP and AH to the kernel of the namespace.
	Kernel bool
}

// StartCharon starts the daemon in a namespace and waits until it answers. It ends
// with the network, or by Stop.
func StartCharon(ctx context.Context, ns *testnet.Namespace, dir string, o CharonOptions) (*Charon, error) {
	if o.LogLevel == 0 {
		o.LogLevel = 1
	}
	esp := "kernel-libipsec "
	if o.Kernel {
		esp = ""
	}
	c := &Charon{Dir: dir, Control: Control{Socket: filepath.Join(dir, "charon.vici")}}
	for _, sub := range swanctlFolders {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	conf := filepath.Join(dir, "strongswan.conf")
	text := fmt.Sprintf(`charon {
  load = random nonce aes sha1 sha2 md5 hmac kdf gcm ctr ccm chapoly openssl curve25519 gmp pem pkcs1 pkcs8 x509 pubkey constraints revocation socket-default %skernel-netlink vici updown xauth-generic %s
  user =
  install_virtual_ip = yes
  filelog { stderr { default = %d
    time_format = %%H:%%M:%%S
    flush_line = yes } }
  plugins { vici { socket = unix://%s } }
%s
}
`, esp, o.Plugins, o.LogLevel, c.Socket, o.Settings)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	var err error
	c.Process, err = ns.Start(testnet.Command{
		Name: "charon", Args: []string{CharonPath}, Env: []string{"STRONGSWAN_CONF=" + conf}, PrivateRun: true,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := c.WaitReady(ctx, c.Process.Alive); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.Process.Log())
	}
	return c, nil
}

// LoadFile writes swanctl.conf and loads everything with Debian's swanctl.
func (c *Charon) LoadFile(ctx context.Context, swanctlConf string) error {
	path := filepath.Join(c.Dir, "swanctl.conf")
	if err := os.WriteFile(path, []byte(swanctlConf), 0o600); err != nil {
		return err
	}
	out, err := c.Swanctl(ctx, "--load-all", "--noprompt", "--file", path)
	if err != nil {
		return err
	}
	// swanctl ends with 0 although a key or a secret was refused.
	if strings.Contains(out, "failed") {
		return fmt.Errorf("interop: swanctl --load-all: %s", out)
	}
	return nil
}

// Swanctl runs Debian's swanctl against the daemon.
func (c *Charon) Swanctl(ctx context.Context, args ...string) (string, error) {
	return Swanctl(ctx, c.Process.NS, c.Socket, args...)
}

// Swanctl runs Debian's swanctl in a namespace against the daemon at socket.
func Swanctl(ctx context.Context, ns *testnet.Namespace, socket string, args ...string) (string, error) {
	conf := filepath.Join(filepath.Dir(socket), "swanctl-settings.conf")
	if err := os.WriteFile(conf, []byte("# The defaults.\n"), 0o600); err != nil {
		return "", err
	}
	return ns.RunCommand(ctx, testnet.Command{
		Args: append(append([]string{"swanctl"}, args...), "--uri", "unix://"+socket),
		Env:  []string{"STRONGSWAN_CONF=" + conf},
	})
}

// AddIdentity stores a certificate with its key and chain, and the root it ends at,
// where swanctl loads them.
func (c *Charon) AddIdentity(name string, id *Identity) error {
	errs := []error{id.WriteFiles(filepath.Join(c.Dir, "x509", name+".pem"), filepath.Join(c.Dir, "private", name+".pem"))}
	for i, ca := range id.Chain {
		errs = append(errs, os.WriteFile(filepath.Join(c.Dir, "x509ca", fmt.Sprintf("%s-%d.pem", name, i)), certPEM(ca), 0o644))
	}
	return errors.Join(errs...)
}

// AddCA stores a trusted authority.
func (c *Charon) AddCA(name string, ca *Identity) error {
	return ca.WriteFiles(filepath.Join(c.Dir, "x509ca", name+".pem"), "")
}

// Stop ends the daemon: it deletes its SAs first.
func (c *Charon) Stop() error { return c.Process.Stop(10 * time.Second) }
