package volume

import (
	"io/fs"
	"syscall"
)

// owner returns the group of a file.
func owner(info fs.FileInfo) int64 {
	return int64(info.Sys().(*syscall.Stat_t).Gid)
}
