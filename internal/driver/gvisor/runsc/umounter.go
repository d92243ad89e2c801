package runsc

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/specutils"

	"gondola/internal/driver/oci"
)

// umounterCode does what "runsc umount --sync-fd=3 /proc" does, as machine code: it waits for a byte on file 3 and unmounts /proc; its exit
// status is not 0 if either fails. As a run of this whole binary that is 12 ms of CPU time at the start of every sandbox.
var umounterCode = map[string][]byte{
	"amd64": {
		0x31, 0xc0, // xor eax, eax (read)
		0xbf, 0x03, 0x00, 0x00, 0x00, // mov edi, 3
		0x48, 0x8d, 0x74, 0x24, 0xf0, // lea rsi, [rsp-16]
		0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
		0x0f, 0x05, // syscall
		0xff, 0xc8, // dec eax: 0 after one byte
		0x75, 0x13, // jnz → exit
		0xb8, 0xa6, 0x00, 0x00, 0x00, // mov eax, 166 (umount2)
		0x48, 0x8d, 0x3d, 0x10, 0x00, 0x00, 0x00, // lea rdi, [rip+0x10] → "/proc"
		0xbe, 0x02, 0x00, 0x00, 0x00, // mov esi, 2 (MNT_DETACH)
		0x0f, 0x05, // syscall
		0x89, 0xc7, // exit: mov edi, eax
		0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231 (exit_group)
		0x0f, 0x05, // syscall
		'/', 'p', 'r', 'o', 'c', 0,
	},
}

// useUmounter makes a sandbox, which is this process, run umounterCode where it would run itself only to unmount. A sandbox that is started by
// root runs no other program; where it would, or where a file in memory may not be executed, nothing changes.
func useUmounter() {
	if os.Geteuid() != 0 || config.CgoEnabled || umounterCode[runtime.GOARCH] == nil {
		return
	}
	fd, err := memoryProgram(oci.Executable(umounterCode[runtime.GOARCH]))
	if err != nil {
		return
	}
	specutils.ExePath = fmt.Sprintf("/proc/self/fd/%d", fd)
}

// memoryProgram returns a file without a name that can be executed for as long as it is open.
func memoryProgram(program []byte) (int, error) {
	fd, err := unix.MemfdCreate("umounter", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, where all may be executed
		fd, err = unix.MemfdCreate("umounter", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return -1, err
	}
	if _, err := unix.Write(fd, program); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
