package volume

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"gondola"
)

// A raw volume is a file and no bare image, so that it is copied at one moment, frozen, as every other is.
const (
	rawSpare     = 192 << 20 // bytes for ext4's journal and tables, beside a 64th of the size
	bytesPerFile = "4194304" // mkfs.ext4 -i: there is one file, so few inodes take no room
)

// fsType is what the API calls a volume's file system.
func (m meta) fsType() string {
	switch {
	case m.Raw:
		return gondola.VolumeFSRaw
	case m.Kind == Directory:
		return gondola.VolumeFSDirectory
	}
	return gondola.VolumeFSType
}

// enlargeRaw makes the file of a raw volume as large as size, or makes it, open to every user; one that is large enough is left alone.
func enlargeRaw(content string, size int64) error {
	f, err := os.OpenFile(rawFile(content), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	if err == nil {
		err = f.Chmod(0o666) // past the umask
	} else if errors.Is(err, os.ErrExist) {
		f, err = os.OpenFile(rawFile(content), os.O_RDWR|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() >= size {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// rawUsage counts as used what a raw volume takes of the host's disk.
func (s *Store) rawUsage(id string, m meta) (Usage, error) {
	taken, err := s.taken(id, m)
	if err != nil {
		return Usage{}, err
	}
	used := min(taken, m.Size)
	free := (m.Size - used) / 4096
	return Usage{FSType: gondola.VolumeFSRaw, BlockSize: 4096, Blocks: m.Size / 4096, BlocksFree: free, BlocksAvail: free, TotalBytes: m.Size, UsedBytes: used}, nil
}
