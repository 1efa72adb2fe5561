package ring

import (
	"bytes"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The attributes of bpf(2) are unions; each type below is the part that a
// command reads, with the kernel's layout.
type (
	mapCreate struct {
		mapType, keySize, valueSize, maxEntries, flags uint32
	}
	mapElem struct {
		fd    uint32
		_     uint32
		key   uint64
		value uint64
		flags uint64
	}
	progLoad struct {
		progType, insnCnt    uint32
		insns, license       uint64
		logLevel, logSize    uint32
		logBuf               uint64
		kernVersion, flags   uint32
		name                 [16]byte
		ifindex, expectedUse uint32
	}
	linkCreate struct {
		progFD, ifindex, attachType, flags uint32
		_                                  [48]byte
	}
	infoByFD struct {
		fd, size uint32
		info     uint64
	}
	linkInfo struct {
		kind, id, progID, _ uint32
		ifindex, attachType uint32
		_                   [32]byte
	}
)

func bpf[T any](cmd uintptr, attr *T) (int, error) {
	n, _, e := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

// address is b's for the kernel; b must be kept alive, and it must be pinned or
// have escaped to the heap, which does not move.
func address(b []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}

func newMap(m mapCreate) (int, error) { return bpf(unix.BPF_MAP_CREATE, &m) }

func mapPut(fd int, key, value []byte) error {
	return mapChange(unix.BPF_MAP_UPDATE_ELEM, fd, key, value)
}

func mapDelete(fd int, key []byte) error {
	return mapChange(unix.BPF_MAP_DELETE_ELEM, fd, key, nil)
}

func mapChange(cmd uintptr, fd int, key, value []byte) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(unsafe.SliceData(key))
	if value != nil {
		pin.Pin(unsafe.SliceData(value))
	}
	_, err := bpf(cmd, &mapElem{fd: uint32(fd), key: address(key), value: address(value)})
	return err
}

// loadProgram loads a program for packets that arrive at an interface. Should
// the verifier refuse it, the error has its reasons.
func loadProgram(code []byte) (int, error) {
	// None of the helpers asks for a licence of its users.
	license := []byte("iked\x00")
	attr := progLoad{progType: unix.BPF_PROG_TYPE_SCHED_CLS, insnCnt: uint32(len(code) / 8), expectedUse: unix.BPF_TCX_INGRESS}
	copy(attr.name[:], "iked_esp")
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(unsafe.SliceData(code))
	pin.Pin(unsafe.SliceData(license))
	attr.insns, attr.license = address(code), address(license)
	fd, err := bpf(unix.BPF_PROG_LOAD, &attr)
	if err == nil || err == unix.EPERM {
		return fd, err
	}
	log := make([]byte, 64<<10)
	pin.Pin(unsafe.SliceData(log))
	attr.logLevel, attr.logSize, attr.logBuf = 1, uint32(len(log)), address(log)
	if fd, again := bpf(unix.BPF_PROG_LOAD, &attr); again == nil {
		return fd, nil
	}
	text, _, _ := bytes.Cut(log, []byte{0})
	if len(text) > 400 {
		text = text[len(text)-400:]
	}
	return -1, fmt.Errorf("%w: %s", err, bytes.TrimSpace(text))
}

// attach puts a program at the entrance of an interface, until the descriptor is
// closed.
func attach(prog, ifindex int) (int, error) {
	return bpf(unix.BPF_LINK_CREATE, &linkCreate{progFD: uint32(prog), ifindex: uint32(ifindex), attachType: unix.BPF_TCX_INGRESS})
}

// attached is the interface at which a program of attach is; 0: it is gone.
func attached(link int) int {
	var info linkInfo
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&info)
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, &infoByFD{fd: uint32(link), size: uint32(unsafe.Sizeof(info)), info: uint64(uintptr(unsafe.Pointer(&info)))})
	if err != nil {
		return 0
	}
	return int(info.ifindex)
}
