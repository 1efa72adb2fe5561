package ring

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// assembler puts BPF instructions together (RFC 9669); jumps go to labels.
type assembler struct {
	code   []byte
	labels map[string]int // instruction
	jumps  map[int]string // instruction: label
}

// Registers of RFC 9669, Section 2.1; r10 is the frame pointer.
const (
	r0 = iota
	r1
	r2
	r3
	r4
	r5
	r6
	r7
	r8
	r9
	r10
)

// Widths of loads and stores, RFC 9669, Section 5.
const (
	w8  = unix.BPF_B
	w16 = unix.BPF_H
	w32 = unix.BPF_W
	w64 = unix.BPF_DW
)

func newAssembler() *assembler {
	return &assembler{labels: map[string]int{}, jumps: map[int]string{}}
}

func (a *assembler) op(code byte, dst, src int, off int16, imm int32) {
	a.code = append(a.code, code, byte(dst|src<<4))
	a.code = binary.NativeEndian.AppendUint16(a.code, uint16(off))
	a.code = binary.NativeEndian.AppendUint32(a.code, uint32(imm))
}

func (a *assembler) label(name string) { a.labels[name] = len(a.code) / 8 }

func (a *assembler) mov(dst, src int) { a.op(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_X, dst, src, 0, 0) }

func (a *assembler) movImm(dst int, v int32) {
	a.op(unix.BPF_ALU64|unix.BPF_MOV|unix.BPF_K, dst, 0, 0, v)
}

func (a *assembler) add(dst int, v int32) {
	a.op(unix.BPF_ALU64|unix.BPF_ADD|unix.BPF_K, dst, 0, 0, v)
}

func (a *assembler) shiftRight(dst int, n int32) {
	a.op(unix.BPF_ALU64|unix.BPF_RSH|unix.BPF_K, dst, 0, 0, n)
}

// fromBE16 makes a number of the host of 16 bits in network order.
func (a *assembler) fromBE16(dst int) { a.op(unix.BPF_ALU|unix.BPF_END|unix.BPF_TO_BE, dst, 0, 0, 16) }

func (a *assembler) load(width byte, dst, src int, off int16) {
	a.op(unix.BPF_LDX|unix.BPF_MEM|width, dst, src, off, 0)
}

func (a *assembler) store(width byte, dst int, off int16, src int) {
	a.op(unix.BPF_STX|unix.BPF_MEM|width, dst, src, off, 0)
}

func (a *assembler) storeImm(width byte, dst int, off int16, v int32) {
	a.op(unix.BPF_ST|unix.BPF_MEM|width, dst, 0, off, v)
}

// Atomic operations, RFC 9669, Section 5.3.
const (
	atomicAdd  = 0x00
	atomicXchg = 0xe1
)

func (a *assembler) atomic(width byte, op int32, dst int, off int16, src int) {
	a.op(unix.BPF_STX|unix.BPF_ATOMIC|width, dst, src, off, op)
}

// mapFD and mapValue put the address of a map, or of the value of an array with
// one entry, into a register.
func (a *assembler) mapFD(dst, fd int) { a.load64(dst, unix.BPF_PSEUDO_MAP_FD, fd) }

func (a *assembler) mapValue(dst, fd int) { a.load64(dst, unix.BPF_PSEUDO_MAP_VALUE, fd) }

func (a *assembler) load64(dst, kind, fd int) {
	a.op(unix.BPF_LD|unix.BPF_IMM|unix.BPF_DW, dst, kind, 0, int32(fd))
	a.op(0, 0, 0, 0, 0)
}

func (a *assembler) call(helper int32) { a.op(unix.BPF_JMP|unix.BPF_CALL, 0, 0, 0, helper) }

func (a *assembler) exit() { a.op(unix.BPF_JMP|unix.BPF_EXIT, 0, 0, 0, 0) }

func (a *assembler) jump(to string) { a.jumpIf(unix.BPF_JA, 0, 0, to) }

// jumpIf compares a register with a number, as 64 bits without a sign.
func (a *assembler) jumpIf(op byte, reg int, v int32, to string) {
	a.jumps[len(a.code)/8] = to
	a.op(unix.BPF_JMP|op|unix.BPF_K, reg, 0, 0, v)
}

// program resolves the jumps.
func (a *assembler) program() ([]byte, error) {
	for at, name := range a.jumps {
		to, ok := a.labels[name]
		if !ok {
			return nil, fmt.Errorf("no label %s", name)
		}
		binary.NativeEndian.PutUint16(a.code[at*8+2:], uint16(to-at-1))
	}
	return a.code, nil
}
