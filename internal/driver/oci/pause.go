package oci

import (
	"encoding/binary"
	"runtime"
	"slices"
)

// pauseCode is the root process of every sandbox, as machine code: it ignores SIGCHLD, so that orphans which a shared PID namespace leaves to
// it vanish by themselves, and sleeps for ever. As a Go program it would cost the sandbox some 10 MB and 10 ms.
var pauseCode = map[string][]byte{
	"amd64": {
		0x48, 0x8d, 0x35, 0x1d, 0x00, 0x00, 0x00, // lea rsi, [rip+0x1d]  → action
		0xbf, 0x11, 0x00, 0x00, 0x00, // mov edi, 17 (SIGCHLD)
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8
		0xb8, 0x0d, 0x00, 0x00, 0x00, // mov eax, 13 (rt_sigaction)
		0x0f, 0x05, // syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp back to mov eax, 34
		// action: struct kernel_sigaction{handler: SIG_IGN, flags: 0, restorer: 0, mask: 0}
		1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	},
	"arm64": {
		0x81, 0x01, 0x00, 0x10, // adr x1, action (+48)
		0x20, 0x02, 0x80, 0xd2, // mov x0, #17 (SIGCHLD)
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0
		0x03, 0x01, 0x80, 0xd2, // mov x3, #8
		0xc8, 0x10, 0x80, 0xd2, // mov x8, #134 (rt_sigaction)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x03, 0x00, 0x80, 0xd2, // mov x3, #0
		0x00, 0x00, 0x80, 0xd2, // mov x0, #0
		0x01, 0x00, 0x80, 0xd2, // mov x1, #0: ppoll without files and timeout never ends
		0x28, 0x09, 0x80, 0xd2, // mov x8, #73 (ppoll)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0xfc, 0xff, 0xff, 0x17, // b back to mov x0, #0
		1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	},
}

// PauseProgram returns the root process of every sandbox, pauseCode, as an ELF executable. first is code that it runs before: it falls through
// to pauseCode.
func PauseProgram(first ...byte) []byte {
	return Executable(slices.Concat(first, pauseCode[runtime.GOARCH]))
}

// Executable returns machine code as an ELF executable of one segment, which begins with its first instruction.
func Executable(code []byte) []byte {
	const (
		base    = 0x400000
		headers = 64 + 56
	)
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	size := uint64(headers + len(code))
	le := binary.LittleEndian

	elf := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, make([]byte, 9)...)
	elf = le.AppendUint16(elf, 2) // ET_EXEC
	elf = le.AppendUint16(elf, machine)
	elf = le.AppendUint32(elf, 1)
	elf = le.AppendUint64(elf, base+headers) // entry
	elf = le.AppendUint64(elf, 64)           // program headers
	elf = le.AppendUint64(elf, 0)
	elf = le.AppendUint32(elf, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		elf = le.AppendUint16(elf, v)
	}
	elf = le.AppendUint32(elf, 1) // PT_LOAD
	elf = le.AppendUint32(elf, 5) // r-x
	for _, v := range []uint64{0, base, base, size, size, 0x1000} {
		elf = le.AppendUint64(elf, v)
	}
	return append(elf, code...)
}
