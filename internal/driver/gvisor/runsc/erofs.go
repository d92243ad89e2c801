package runsc

import (
	"bytes"
	"encoding/binary"
	"runtime"

	"gondola/internal/driver/oci"
)

// pauseImage returns the root file system of a sandbox's root: the pause program and empty directories for the mounts that runsc insists on.
// It is an EROFS image (https://docs.kernel.org/filesystems/erofs.html: uncompressed, compact inodes, plain layout), because the sandbox
// reads such an image by itself, where a directory would take a gofer process beside the sandbox for as long as it lives.
func pauseImage() []byte {
	const (
		block    = 4096
		inodes   = 1 // the block that holds all inodes
		dataFrom = 2
		regular  = 1
		dir      = 2
	)
	dirs := []string{"dev", "proc", "sys", "tmp"}
	program := oci.PauseProgram(limiterCode[runtime.GOARCH]...)
	// Inode 0 is the root, 1 the program, the others the directories; inode n has its data in block dataFrom+n.
	type entry struct {
		name string
		nid  int
		kind byte
	}
	root := []entry{{".", 0, dir}, {"..", 0, dir}}
	for i, name := range dirs {
		root = append(root, entry{name, i + 2, dir})
	}
	root = append(root[:3], append([]entry{{"pause", 1, regular}}, root[3:]...)...) // in the order of names: dev, pause, proc …

	le := binary.LittleEndian
	directory := func(entries []entry) []byte {
		var heads, names []byte
		for _, e := range entries {
			heads = le.AppendUint64(heads, uint64(e.nid))
			heads = le.AppendUint16(heads, uint16(12*len(entries)+len(names)))
			heads = append(heads, e.kind, 0)
			names = append(names, e.name...)
		}
		return append(heads, names...)
	}
	contents := [][]byte{directory(root), program}
	modes := []uint16{0o40755, 0o100755}
	for i := range dirs {
		contents = append(contents, directory([]entry{{".", i + 2, dir}, {"..", 0, dir}}))
		modes = append(modes, 0o40755)
	}

	image := make([]byte, block*(dataFrom+len(contents)))
	super := image[1024:]
	le.PutUint32(super, 0xe0f5e1e2)
	super[12] = 12 // log2 of the block size
	le.PutUint64(super[16:], uint64(len(contents)))
	le.PutUint32(super[36:], uint32(len(image)/block))
	le.PutUint32(super[40:], inodes)
	for n, data := range contents {
		links := uint16(2)
		if n == 1 {
			links = 1
		}
		inode := new(bytes.Buffer)
		for _, v := range []any{uint16(0), uint16(0), modes[n], links, uint32(len(data)), uint32(0), uint32(dataFrom + n), uint32(n + 1)} {
			binary.Write(inode, le, v)
		}
		copy(image[inodes*block+32*n:], inode.Bytes())
		copy(image[(dataFrom+n)*block:], data)
	}
	return image
}
