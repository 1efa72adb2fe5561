package uml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// tempDir is where tests make their files.
const tempDir = "/dev/shm/tmp"

// guestArgs are the flags of the test binary without those that make files for
// go test: it would take the files that a run inside opened for all that the
// result depends on, and repeat the result without a run.
func guestArgs(args []string) []string {
	var keep []string
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if strings.HasPrefix(args[i], "-") && name == "test.testlogfile" {
			if !joined {
				i++
			}
			continue
		}
		keep = append(keep, args[i])
	}
	return keep
}

// initScript is the first program of the guest: file systems, modules, the
// command with its status left in dir, and the end. Kernel modules are loaded from a
// root of their own, because the machine may have no /lib/modules; so does the
// kernel itself when it asks for one.
func initScript(dir, cwd string, command, environ, modules, aliases []string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("#!/bin/sh")
	line("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	line("mount -t proc proc /proc")
	line("mount -t sysfs sysfs /sys")
	line("mount -t tmpfs -o mode=0755 tmpfs /run")
	line("mkdir -p /dev/shm /dev/pts /run/uml/lib/modules")
	line("mount -t tmpfs tmpfs /dev/shm")
	// Not below /run: daemons under test have one of their own.
	line("mkdir -p %s", tempDir)
	line("mount -t devpts devpts /dev/pts")
	line("mount --bind %s /run/uml/lib/modules", modulesPath)
	line("cat >/run/uml/modprobe <<'END'\n%sEND", modprobeScript(aliases, kmodPath))
	line("chmod 0755 /run/uml/modprobe")
	line("echo /run/uml/modprobe >/proc/sys/kernel/modprobe")
	line("/run/uml/modprobe -a %s", strings.Join(modules, " ")) // it says itself what is not there
	line("ip link set lo up")
	line("busybox stty -F /dev/ttyS0 raw -echo")
	for _, kv := range environ {
		name, value, ok := strings.Cut(kv, "=")
		if ok && isName(name) && name != "PATH" && name != "PWD" {
			line("export %s=%s", name, quote(value))
		}
	}
	line(`export PATH="$PATH":%s`, quote(lookup(environ, "PATH")))
	line("export TMPDIR=%s %s=%s", tempDir, dirEnv, quote(dir))
	line("cd %s", quote(cwd))
	var words []string
	for _, w := range command {
		words = append(words, quote(w))
	}
	line("%s </dev/null >/dev/ttyS0 2>&1", strings.Join(words, " "))
	line("echo $? >%s", quote(dir+"/status"))
	line("sync")
	line("busybox poweroff -f")
	return b.String()
}

// modprobeScript is what the kernel runs to get a module. It asks for one for each
// name of an algorithm that it has not seen, such as hmac(sha256), twice for many,
// and a modprobe takes a third of a second here: a name of the crypto API that is not
// among aliases, those of all modules, is refused at once.
func modprobeScript(aliases []string, modprobe string) string {
	var known strings.Builder
	for _, a := range aliases {
		if strings.HasPrefix(a, "crypto-") {
			fmt.Fprintf(&known, "%s) ;;\n", quote(a))
		}
	}
	return fmt.Sprintf("#!/bin/sh\nfor name; do :; done\ncase $name in\n%scrypto-*) exit 1 ;;\nesac\nexec %s -d /run/uml \"$@\"\n", known.String(), modprobe)
}

// moduleAliases are the names by which the kernel of the guest asks for modules.
func moduleAliases() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(modulesPath, "*", "modules.alias"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no modules.alias: install the Debian package user-mode-linux again", modulesPath)
	}
	var names []string
	for _, f := range files {
		b, e := os.ReadFile(f)
		err = errors.Join(err, e)
		for l := range strings.Lines(string(b)) {
			if w := strings.Fields(l); len(w) == 3 && w[0] == "alias" {
				names = append(names, w[1])
			}
		}
	}
	return names, err
}

func lookup(environ []string, name string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// isName tells whether the shell takes it as the name of a variable.
func isName(s string) bool {
	for i, c := range s {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// quote makes one word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// lockedThread runs fn on a thread that ends with it: Pdeathsig is about the
// thread that started a process.
func lockedThread(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lockedThread(fn)
	}()
	<-done
	runtime.UnlockOSThread()
}
