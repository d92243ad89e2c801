package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unpacker applies layers to a directory. Every path of a layer is resolved by the kernel as if the directory were the root of the file
// system (openat2 with RESOLVE_IN_ROOT), so that no link leads out of it.
type unpacker struct {
	root *os.File
	log  *slog.Logger
	size int64 // bytes of files written, those of lower layers that went away again included

	parent   int    // O_PATH descriptor of the directory of the last entry, -1 if none: archives go directory by directory
	parentOf string // its path in the archive

	layerDirs map[string]*tar.Header // directories of this layer; their times are set last
	written   map[string]bool        // paths that this layer made, and what lies above them: whiteouts are for lower layers only
}

func newUnpacker(dir string, log *slog.Logger) (*unpacker, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return nil, err
	}
	root, err := os.OpenFile(dir, unix.O_DIRECTORY|os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &unpacker{root: root, log: log, parent: -1}, nil
}

func (u *unpacker) rootFD() int { return int(u.root.Fd()) }

func (u *unpacker) close() {
	u.forgetParent()
	u.root.Close()
}

func (u *unpacker) forgetParent() {
	if u.parent >= 0 {
		unix.Close(u.parent)
	}
	u.parent, u.parentOf = -1, ""
}

// layer applies one layer's archive.
func (u *unpacker) layer(r io.Reader) error {
	u.layerDirs, u.written = map[string]*tar.Header{}, map[string]bool{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	u.forgetParent()
	for name, h := range u.layerDirs {
		if err := u.dirTimes(name, h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// clean is the path of an entry from the root, without a leading slash; "." is the root itself.
func clean(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name := clean(h.Name)
	dir, base := path.Split(name)
	dir = clean(dir)
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "." {
		if h.Typeflag == tar.TypeDir {
			u.layerDirs[name] = h
			return u.meta(u.rootPath(), h)
		}
		return fmt.Errorf("the root of an image must be a directory")
	}
	if err := u.open(dir); err != nil {
		return err
	}
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		return u.whiteout(dir, hidden)
	}
	at := u.at(base)
	if fi, err := os.Lstat(at); err == nil && (!fi.IsDir() || h.Typeflag != tar.TypeDir) {
		if err := os.RemoveAll(at); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for p := name; p != "." && !u.written[p]; p = path.Dir(p) {
		u.written[p] = true
	}
	made, err := u.make(at, h, r)
	if err != nil || !made {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		u.layerDirs[name] = h
	}
	if h.Typeflag == tar.TypeLink {
		return nil // metadata is the target's
	}
	return u.meta(at, h)
}

// at is a path to something in the directory of the present entry; what it names is never followed if it is a link.
func (u *unpacker) at(base string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", u.parent, base) }

func (u *unpacker) rootPath() string { return fmt.Sprintf("/proc/self/fd/%d/.", u.root.Fd()) }

// open makes dir the present directory, making it and those above it where they are missing.
func (u *unpacker) open(dir string) error {
	if u.parent >= 0 && u.parentOf == dir {
		return nil
	}
	fd, err := u.resolve(dir)
	if errors.Is(err, unix.ENOENT) && dir != "." {
		if err := u.open(clean(path.Dir(dir))); err != nil {
			return err
		}
		at := u.at(path.Base(dir))
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(at, 0o755); err != nil {
			return err
		}
		fd, err = u.resolve(dir)
	}
	if err != nil {
		return fmt.Errorf("directory %s: %w", dir, err)
	}
	u.forgetParent()
	u.parent, u.parentOf = fd, dir
	return nil
}

// resolve opens a directory of the tree.
func (u *unpacker) resolve(dir string) (int, error) {
	for {
		fd, err := unix.Openat2(u.rootFD(), dir, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err == unix.ENOSYS {
			return -1, fmt.Errorf("unpacking images needs Linux 5.6 or later: %w", err)
		}
		if err != unix.EAGAIN && err != unix.EINTR { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// whiteout removes what lower layers have under a name, or in the whole directory.
func (u *unpacker) whiteout(dir, hidden string) error {
	switch {
	case hidden == "":
		return errors.New("whiteout of nothing")
	case hidden == ".wh..opq":
		return u.removeLower(u.at("."), dir)
	case strings.HasPrefix(hidden, ".wh."):
		return nil // bookkeeping of AUFS
	}
	name := clean(path.Join(dir, hidden))
	if !u.written[name] {
		return os.RemoveAll(u.at(hidden))
	}
	if fi, err := os.Lstat(u.at(hidden)); err != nil || !fi.IsDir() {
		return nil
	}
	return u.removeLower(u.at(hidden), name)
}

// removeLower removes everything in a directory that this layer did not make.
func (u *unpacker) removeLower(at, name string) error {
	entries, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		sub, subAt := clean(path.Join(name, e.Name())), at+"/"+e.Name()
		switch {
		case !u.written[sub]:
			err = os.RemoveAll(subAt)
		case e.IsDir():
			err = u.removeLower(subAt, sub)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// make creates what an entry describes, without its metadata. made is false where this host may not make it.
func (u *unpacker) make(at string, h *tar.Header, r io.Reader) (made bool, err error) {
	switch h.Typeflag {
	case tar.TypeDir:
		err = os.Mkdir(at, 0o755)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		err = u.file(at, r)
	case tar.TypeSymlink:
		err = os.Symlink(h.Linkname, at)
	case tar.TypeLink:
		err = u.link(h.Linkname, at)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.device(at, h)
	default:
		u.log.Warn("skipping an entry of unknown type in an image", "name", h.Name, "type", string(h.Typeflag))
		return false, nil
	}
	return err == nil, err
}

func (u *unpacker) file(at string, r io.Reader) error {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	u.size += n
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// link makes a hard link to an earlier entry.
func (u *unpacker) link(target, at string) error {
	target = clean(target)
	fd, err := u.resolve(clean(path.Dir(target)))
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", target, err)
	}
	defer unix.Close(fd)
	if err := unix.Linkat(fd, path.Base(target), unix.AT_FDCWD, at, 0); err != nil {
		return fmt.Errorf("hard link to %s: %w", target, err)
	}
	return nil
}

// device makes a device node or FIFO. Where the kernel forbids nodes they are left out: a container gets its /dev from the runtime.
func (u *unpacker) device(at string, h *tar.Header) (bool, error) {
	mode := uint32(unix.S_IFIFO)
	switch h.Typeflag {
	case tar.TypeChar:
		mode = unix.S_IFCHR
	case tar.TypeBlock:
		mode = unix.S_IFBLK
	}
	err := unix.Mknod(at, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	if err == unix.EPERM && h.Typeflag != tar.TypeFifo {
		u.log.Debug("leaving out a device node", "name", h.Name)
		return false, nil
	}
	return err == nil, err
}

// meta sets owner, extended attributes, mode and times, in this order: a change of owner clears setuid bits and file capabilities.
func (u *unpacker) meta(at string, h *tar.Header) error {
	if err := os.Lchown(at, h.Uid, h.Gid); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		switch err := unix.Lsetxattr(at, attr, []byte(value), 0); err {
		case nil:
		case unix.ENOTSUP, unix.EPERM, unix.EINVAL:
			u.log.Debug("leaving out an extended attribute", "name", h.Name, "attribute", attr, "err", err)
		default:
			return fmt.Errorf("extended attribute %s: %w", attr, err)
		}
	}
	if h.Typeflag == tar.TypeSymlink {
		return u.times(at, h)
	}
	if err := unix.Chmod(at, uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return u.times(at, h)
}

func (u *unpacker) times(at string, h *tar.Header) error {
	mtime := h.ModTime
	if mtime.Unix() < 0 {
		mtime = time.Unix(0, 0)
	}
	ts := unix.NsecToTimespec(mtime.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, at, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// dirTimes sets the times of a directory after everything in it was written.
func (u *unpacker) dirTimes(name string, h *tar.Header) error {
	fd, err := u.resolve(name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // removed or replaced further down in the same layer
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.times(fmt.Sprintf("/proc/self/fd/%d/.", fd), h)
}
