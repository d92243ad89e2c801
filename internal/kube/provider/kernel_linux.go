package provider

import "golang.org/x/sys/unix"

// kernel returns the release of the kernel that this process runs on.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
