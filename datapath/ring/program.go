package ring

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"iked/datapath/ip"
)

// Helpers of the kernel, include/uapi/linux/bpf.h.
const (
	mapLookupElem        = 1
	skbLoadBytesRelative = 68
	ringbufReserve       = 131
	ringbufSubmit        = 132
	ringbufDiscard       = 133
)

// Offsets in struct __sk_buff.
const (
	skbPktType     = 4
	skbProtocol    = 16
	skbVLANPresent = 20
)

const (
	fromNetworkHeader = 1  // BPF_HDR_START_NET
	tcxNext           = -1 // the packet goes on as if nothing were here
	tcxDrop           = 2
)

// keyLen is the length of a key of the map of SPIs: the destination, 16 octets
// with IPv4 addresses mapped, and the SPI.
const keyLen = 20

// recordHeader precedes the packet in a record: its length, and nothing.
const recordHeader = 8

// records are the longest packets of the three kinds of records: most
// acknowledgments, what an Ethernet carries, jumbo frames. A longer packet goes
// through the stack.
var records = [...]int32{248, 1528, 9208}

// State that the program and the reader share: whether the reader wants to be
// woken, and how many packets found no room.
const (
	stateWanted = 0
	stateFull   = 8
	stateSize   = 16
)

// onWire is a 16 bit number as a load of network order sees it.
func onWire(v uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)))
}

// program takes those packets that the datapath would get from a raw socket in
// the end: ESP, whole, for this host, with a destination and an SPI that are in
// the map. It copies them into the ring. Every other packet goes on.
//
// On the stack: the IP header and the SPI at -64, the key at -88.
func program(spis, ring, state int) ([]byte, error) {
	const head, key = -64, -88
	a := newAssembler()
	fetch := func(n int32) {
		a.mov(r1, r6)
		a.movImm(r2, 0)
		a.mov(r3, r10)
		a.add(r3, head)
		a.movImm(r4, n)
		a.movImm(r5, fromNetworkHeader)
		a.call(skbLoadBytesRelative)
		a.jumpIf(unix.BPF_JNE, r0, 0, "next")
	}
	a.mov(r6, r1)
	// Not a copy of what is for others, nor for a VLAN on top of the interface.
	a.load(w32, r0, r6, skbPktType)
	a.jumpIf(unix.BPF_JNE, r0, unix.PACKET_HOST, "next")
	a.load(w32, r0, r6, skbVLANPresent)
	a.jumpIf(unix.BPF_JNE, r0, 0, "next")
	a.load(w32, r0, r6, skbProtocol)
	a.jumpIf(unix.BPF_JEQ, r0, onWire(unix.ETH_P_IP), "IPv4")
	a.jumpIf(unix.BPF_JNE, r0, onWire(unix.ETH_P_IPV6), "next")

	fetch(ip.IPv6HeaderLen + 8)
	a.load(w8, r0, r10, head)
	a.shiftRight(r0, 4)
	a.jumpIf(unix.BPF_JNE, r0, 6, "next")
	a.load(w8, r0, r10, head+6)
	a.jumpIf(unix.BPF_JNE, r0, unix.IPPROTO_ESP, "next") // extension headers are for the stack
	a.load(w16, r7, r10, head+4)
	a.fromBE16(r7)
	a.add(r7, ip.IPv6HeaderLen)
	a.load(w64, r0, r10, head+24)
	a.store(w64, r10, key, r0)
	a.load(w64, r0, r10, head+32)
	a.store(w64, r10, key+8, r0)
	a.load(w32, r0, r10, head+40)
	a.jump("look up")

	a.label("IPv4")
	fetch(ip.IPv4HeaderLen + 8)
	a.load(w8, r0, r10, head)
	a.jumpIf(unix.BPF_JNE, r0, 0x45, "next") // options are for the stack
	a.load(w8, r0, r10, head+9)
	a.jumpIf(unix.BPF_JNE, r0, unix.IPPROTO_ESP, "next")
	a.load(w16, r0, r10, head+6)
	a.jumpIf(unix.BPF_JSET, r0, onWire(0x3fff), "next") // and so are fragments
	a.load(w16, r7, r10, head+2)
	a.fromBE16(r7)
	a.storeImm(w64, r10, key, 0)
	a.storeImm(w16, r10, key+8, 0)
	a.storeImm(w16, r10, key+10, 0xffff)
	a.load(w32, r0, r10, head+16)
	a.store(w32, r10, key+12, r0)
	a.load(w32, r0, r10, head+20)

	a.label("look up")
	a.store(w32, r10, key+16, r0)
	a.mapFD(r1, spis)
	a.mov(r2, r10)
	a.add(r2, key)
	a.call(mapLookupElem)
	a.jumpIf(unix.BPF_JEQ, r0, 0, "next")
	a.jumpIf(unix.BPF_JLT, r7, ip.IPv4HeaderLen+8, "next")
	for i, n := range records {
		longer := []string{"longer", "longest", "next"}[i]
		a.jumpIf(unix.BPF_JGT, r7, n, longer)
		a.mapFD(r1, ring)
		a.movImm(r2, recordHeader+n)
		a.movImm(r3, 0)
		a.call(ringbufReserve)
		a.jumpIf(unix.BPF_JEQ, r0, 0, "full")
		a.mov(r9, r0)
		a.store(w64, r9, 0, r7)
		a.mov(r1, r6)
		a.movImm(r2, 0)
		a.mov(r3, r9)
		a.add(r3, recordHeader)
		a.mov(r4, r7)
		a.movImm(r5, fromNetworkHeader)
		a.call(skbLoadBytesRelative)
		a.jumpIf(unix.BPF_JNE, r0, 0, "discard") // shorter than its header says
		a.jump("submit")
		if longer != "next" {
			a.label(longer)
		}
	}

	// The exchange is a barrier between the reservation above and the look at
	// what the reader wants; the reader does both the other way round. So either
	// it sees the packet before it waits, or it is woken.
	a.label("submit")
	a.mapValue(r1, state)
	a.movImm(r0, 0)
	a.atomic(w32, atomicXchg, r1, stateWanted, r0)
	a.movImm(r2, unix.BPF_RB_NO_WAKEUP)
	a.jumpIf(unix.BPF_JEQ, r0, 0, "quiet")
	a.movImm(r2, unix.BPF_RB_FORCE_WAKEUP)
	a.label("quiet")
	a.mov(r1, r9)
	a.call(ringbufSubmit)
	a.movImm(r0, tcxDrop) // it is in the ring
	a.exit()

	// As with the buffer of a socket: what is too much is lost.
	a.label("full")
	a.mapValue(r1, state)
	a.movImm(r2, 1)
	a.atomic(w64, atomicAdd, r1, stateFull, r2)
	a.movImm(r0, tcxDrop)
	a.exit()

	a.label("discard")
	a.mov(r1, r9)
	a.movImm(r2, unix.BPF_RB_NO_WAKEUP)
	a.call(ringbufDiscard)
	a.label("next")
	a.movImm(r0, tcxNext)
	a.exit()
	return a.program()
}
