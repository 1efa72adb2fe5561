// Package uml runs the tests of a package inside a user-mode-linux: a real
// kernel with ESP, AH, BEET and extended sequence numbers, whatever the machine's
// own kernel lacks. A package of tests opts in with
//
//	func TestMain(m *testing.M) { uml.Main(m, uml.Options{}) }
//
// and calls Require in each test. Main then boots the kernel on the machine's
// own root file system and runs the same test binary inside with the same flags;
// what it prints and its exit status are those of the run inside.
//
// The guest has one processor, a fresh network and its own /dev, /proc, /sys and
// /run. Everything else is the machine's: a file written outside TMPDIR and /run
// is written for good. No privilege is needed outside; inside tests are root.
//
// It needs the Debian packages user-mode-linux, kmod and busybox.
package uml

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"iked/internal/testnet"
)

// dirEnv names the folder that host and guest share; it is set in the guest only.
const dirEnv = "UML_GUEST_DIR"

// Files of Debian's packages.
const (
	kernelPath  = "/usr/bin/linux.uml"
	modulesPath = "/usr/lib/uml/modules"
	kmodPath    = "/sbin/modprobe"
	busyboxPath = "/bin/busybox"
)

// Modules are loaded before the tests start: what IPsec, the userspace datapath
// and internal/testnet need.
var Modules = strings.Fields(`xfrm_user esp4 esp6 ah4 ah6 veth tun af_key ipcomp ipcomp6 xfrm4_tunnel xfrm6_tunnel
	authenc authencesn cbc gcm ccm ctr seqiv echainiv ghash-generic hmac sha512_generic des_generic chacha20poly1305
	chacha_generic poly1305_generic xcbc cmac ip_vti ip6_vti nf_tables nf_conntrack nft_ct nft_masq`)

// Options shape the guest.
type Options struct {
	// Memory in MiB; 0: 512.
	Memory int
	// Modules are loaded besides those that every guest has.
	Modules []string
	// Prepare makes files for the tests on the machine, where compiling is fast, in
	// the folder that they find as Dir.
	Prepare func(dir string) error
}

// Inside tells whether this process runs in the guest.
func Inside() bool { return os.Getenv(dirEnv) != "" }

// Dir is the folder that host and guest share for the time of the run.
func Dir() string { return os.Getenv(dirEnv) }

// Missing says what keeps the guest from running, in words; nil: nothing.
func Missing() error {
	if raceEnabled {
		return fmt.Errorf("the race detector does not run in user-mode-linux")
	}
	for _, need := range [][2]string{
		{kernelPath, "user-mode-linux"}, {modulesPath, "user-mode-linux"}, {kmodPath, "kmod"}, {busyboxPath, "busybox"},
	} {
		if _, err := os.Stat(need[0]); err != nil {
			return fmt.Errorf("%s is missing: install the Debian package %s", need[0], need[1])
		}
	}
	return nil
}

// Require skips a test, loudly, that does not run in the guest, and fails it
// under CI. Every test of a package with Main calls it.
func Require(t testnet.TB) {
	t.Helper()
	if Inside() {
		return
	}
	why := "it runs in user-mode-linux, and TestMain did not start it there"
	if err := Missing(); err != nil {
		why = err.Error()
	}
	testnet.LeaveOut(t, why)
}

// Main is the body of TestMain, with testing.M or what does more around it. It does
// not return.
func Main(m interface{ Run() int }, o Options) {
	if !flag.Parsed() {
		flag.Parse()
	}
	// Names of tests are listed without a guest; without what it needs the tests
	// run here, where each says that it is left out.
	if Inside() || flag.Lookup("test.list").Value.String() != "" || Missing() != nil {
		os.Exit(m.Run())
	}
	g, err := newGuest(o)
	if err == nil {
		var status int
		status, err = g.run(os.Args)
		if err == nil {
			os.Exit(status)
		}
	}
	fmt.Fprintln(os.Stderr, "user-mode-linux:", err)
	os.Exit(2)
}

// Kernel is the release of the guest's kernel, such as "6.1.176".
func Kernel() string {
	out, err := exec.Command(kernelPath, "--version").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
