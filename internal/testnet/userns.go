package testnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// usernsEnv marks the copy of the program that runs inside the user namespace.
const usernsEnv = "TESTNET_IN_USER_NAMESPACE"

// InUserNS tells whether this process was started by EnterUserNS.
func InUserNS() bool { return os.Getenv(usernsEnv) != "" }

// CanBuild tells whether this process may make namespaces: nil, or what is
// missing in words.
func CanBuild() error {
	err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if errors.Is(err, unix.EPERM) {
		return errors.New("network namespaces need root (CAP_SYS_ADMIN)")
	}
	if err != nil {
		return fmt.Errorf("network namespaces: %w", err)
	}
	return nil
}

// CanTUN tells whether TUN devices can be opened: nil, or what is missing.
func CanTUN() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the userspace datapath needs /dev/net/tun: %w", err)
	}
	return unix.Close(fd)
}

// EnterUserNS runs this program once more, with the same arguments, as root of a
// new user namespace (with mount and network namespaces), waits for it, passes
// SIGINT and SIGTERM on, and returns its exit status. An error means that it could
// not be started: mostly that the kernel does not allow it.
func EnterUserNS() (status int, err error) {
	if InUserNS() {
		return 1, errors.New("testnet: already in a user namespace")
	}
	self, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("testnet: own program file: %w", err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), usernsEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = userNSAttr()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("testnet: no user namespace (%w); it is allowed by the sysctls user.max_user_namespaces, "+
			"kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns where they exist", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func userNSAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGTERM,
	}
}
