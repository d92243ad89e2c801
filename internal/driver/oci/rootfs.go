package oci

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// MakeRootfs mounts a writable layer over the container's image, a fresh one unless Spec.KeepsRootfs, writes the run's files into it and makes its
// mount points. It returns the mounted directory. Where run mounts a part of a volume, it puts that very directory in the mount's place. What is
// mounted stays below driver.Rootfs, also after an error.
func MakeRootfs(spec *pilot.Spec, run *pilot.Run, vs Volumes) (string, error) {
	merged, err := mountRootfs(spec, run, vs)
	if err != nil {
		return "", err
	}
	root, err := openRoot(merged)
	if err != nil {
		return "", err
	}
	defer root.close()
	for _, f := range run.Files {
		if err := root.write(f); err != nil {
			return "", fmt.Errorf("file %s: %w", f.GuestPath, err)
		}
	}
	err = makeMountPoints(root, run.Mounts, vs)
	failpoint.Hit("pilot.rootfs.made")
	return merged, err
}

// RemakeRootfs mounts again what MakeRootfs has made for the same run, with all that was written since. SyncRootfs came before the unmounting.
func RemakeRootfs(spec *pilot.Spec, run *pilot.Run, vs Volumes) error {
	_, err := mountRootfs(spec, run, vs)
	return err
}

// mountRootfs mounts the layer of a run, which it makes if it is not there, and what the run mounts of volumes' parts.
func mountRootfs(spec *pilot.Spec, run *pilot.Run, vs Volumes) (merged string, err error) {
	base := driver.RunRootfs(spec, &run.Container, run.Attempt)
	upper, work, merged := filepath.Join(base, "upper"), filepath.Join(base, "work"), filepath.Join(base, "merged")
	// The kernel marks in work that "volatile" left its syncs to nobody, and refuses a second mount.
	if err := errors.Join(os.RemoveAll(work), os.MkdirAll(work, 0o755), os.MkdirAll(merged, 0o755)); err != nil {
		return "", err
	}
	if _, err := os.Lstat(upper); errors.Is(err, os.ErrNotExist) {
		if err := makeUpper(run.Container.Tree, upper); err != nil {
			return "", fmt.Errorf("image %s: %w", run.Container.Image, err)
		}
	}
	if err := mountOverlay(run.Container.Tree, upper, work, merged, !spec.KeepsRootfs(run.Container.Name)); err != nil {
		return "", fmt.Errorf("mount a root file system over %s: %w", run.Container.Tree, err)
	}
	run.Mounts = slices.Clone(run.Mounts)
	return merged, holdParts(run.Mounts, base, vs)
}

// makeUpper makes the upper directory of a layer over a tree: after a crash it is there as it has to be, or not at all.
func makeUpper(tree, upper string) error {
	made := upper + ".new"
	if err := os.MkdirAll(made, 0o755); err != nil {
		return err
	}
	if err := copyMode(tree, made); err != nil {
		return err
	}
	return os.Rename(made, upper)
}

// syncFew is how many files are synced one by one; with more, the file system that they are on is.
const syncFew = 500

// SyncRootfs writes all to disk that the run of MakeRootfs with this base has written.
func SyncRootfs(base string) error {
	uppers, err := filepath.Glob(filepath.Join(base, "*", "upper"))
	if err != nil {
		return err
	}
	for _, upper := range uppers {
		files := 0
		err := filepath.WalkDir(upper, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() && !d.Type().IsRegular() {
				return err
			}
			if files++; files > syncFew {
				return fs.SkipAll
			}
			return onFile(path, unix.Fsync)
		})
		if err == nil && files > syncFew {
			err = onFile(upper, unix.Syncfs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func onFile(path string, do func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return do(fd)
}

// holdParts replaces the source of every mount of a part of a volume by a bind of that very directory. A name would not do: the containers of
// the volume could meanwhile have put a symbolic link to anywhere on the host in its place.
func holdParts(mounts []pilot.Mount, base string, vs Volumes) error {
	for i := range mounts {
		m := &mounts[i]
		if m.Volume == nil || m.SubPath == "" {
			continue
		}
		v := vs[m.Volume.Name]
		held := filepath.Join(base, "part"+strconv.Itoa(i))
		if err := holdPart(v.Source, m.SubPath, held, !v.ReadOnly, v.Mode); err != nil {
			return fmt.Errorf("sub-path %s of volume %s: %w", m.SubPath, m.Volume.Name, err)
		}
		m.Volume, m.Source, m.SubPath, m.ReadOnly = nil, held, "", m.ReadOnly || v.ReadOnly
	}
	return nil
}

func holdPart(volume, part, held string, create bool, mode uint32) error {
	root, err := openRoot(volume)
	if err != nil {
		return err
	}
	defer root.close()
	fd, err := root.open(part, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) && create {
		if err = root.mkdirAll(part); err == nil {
			fd, err = root.open(part, unix.O_PATH, 0)
		}
		if err == nil {
			err = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := os.Remove(held); err != nil && !errors.Is(err, os.ErrNotExist) { // of the run before, where it has the same layer
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(held, 0o755)
	} else {
		err = os.WriteFile(held, nil, 0o644)
	}
	if err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), held, "", unix.MS_BIND, "")
}

// makeMountPoints spares a sandbox from making them through a gofer, and makes them possible in a read-only root.
func makeMountPoints(root *rootDir, mounts []pilot.Mount, vs Volumes) error {
	for _, m := range StandardMounts("") {
		if path.Dir(m.Destination) == "/" {
			if err := root.mkdirAll(m.Destination); err != nil {
				return fmt.Errorf("mount point %s: %w", m.Destination, err)
			}
		}
	}
	for _, m := range mounts {
		// Below another mount the mount point is not in the root file system, and the runtime makes it.
		if slices.ContainsFunc(mounts, func(o pilot.Mount) bool { return strings.HasPrefix(m.Path, strings.TrimSuffix(o.Path, "/")+"/") }) ||
			strings.HasPrefix(m.Path, "/dev/") || strings.HasPrefix(m.Path, "/proc/") || strings.HasPrefix(m.Path, "/sys/") {
			continue
		}
		src := vs.Mount(m)
		info, err := os.Stat(src.Source)
		switch {
		case src.Type == "bind" && err != nil:
			return fmt.Errorf("mount at %s: %w", m.Path, err)
		case src.Type == "bind" && !info.IsDir():
			err = root.touch(m.Path)
		default:
			err = root.mkdirAll(m.Path)
		}
		if err != nil {
			return fmt.Errorf("mount point %s: %w", m.Path, err)
		}
	}
	return nil
}

// mountOverlay mounts a writable layer over a read-only tree. volatile spares the syncs, for a layer that never outlives its mount.
func mountOverlay(lower, upper, work, merged string, volatile bool) error {
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`).Replace
	options := "lowerdir=" + escape(lower) + ",upperdir=" + escape(upper) + ",workdir=" + escape(work)
	if volatile {
		if err := unix.Mount("overlay", merged, "overlay", 0, options+",volatile"); !errors.Is(err, unix.EINVAL) { // before Linux 5.10
			return err
		}
	}
	return unix.Mount("overlay", merged, "overlay", 0, options)
}

// copyMode gives to the mode and owner of from: the top directory of an overlay has those of its upper layer.
func copyMode(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.Chown(to, int(st.Uid), int(st.Gid))
}

// rootDir is a container's root file system seen from the host. Its paths are resolved as in the container: a symbolic link, absolute or
// with "..", never leads out of it.
type rootDir struct{ fd int }

func openRoot(dir string) (*rootDir, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &rootDir{fd}, nil
}

func (d *rootDir) close() { unix.Close(d.fd) }

func (d *rootDir) open(name string, flags int, mode uint32) (int, error) {
	return unix.Openat2(d.fd, name, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT})
}

// followLinks is how many links are followed one from another, as by the kernel.
const followLinks = 40

// mkdirAll makes a directory and its parents, mode 0755. Where links on the way lead to nothing, it is made there.
func (d *rootDir) mkdirAll(name string) error {
	return d.mkdirBehind(path.Clean("/"+name), followLinks)
}

// mkdirBehind is mkdirAll by a path with ".." behind links, for the kernel to resolve.
func (d *rootDir) mkdirBehind(name string, links int) error {
	fd, err := d.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		return unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return err
	}
	parent, base, err := d.makeParent(name, links)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, base, 0o755); err != nil && !errors.Is(err, unix.EEXIST) { // as "..", which is there by now
		return err
	}
	return nil
}

// makeParent makes the directory of a file, or where name is a link of what that leads to, and returns it with the file's name in it.
func (d *rootDir) makeParent(name string, links int) (parent int, base string, err error) {
	dir, base := path.Split(strings.TrimRight(name, "/"))
	if err := d.mkdirBehind(dir, links); err != nil {
		return -1, "", err
	}
	if parent, err = d.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return -1, "", err
	}
	to := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(parent, base, to)
	if err != nil { // nothing, or no link
		return parent, base, nil
	}
	unix.Close(parent)
	if links == 0 {
		return -1, "", unix.ELOOP
	}
	link := string(to[:n])
	if !path.IsAbs(link) {
		link = dir + link
	}
	return d.makeParent(link, links-1)
}

// makeWay makes the directory of a file that is to be made at name.
func (d *rootDir) makeWay(name string) error {
	parent, _, err := d.makeParent(path.Clean("/"+name), followLinks)
	if err != nil {
		return err
	}
	return unix.Close(parent)
}

// checkFile refuses what is there and is no regular file: an image, or a container whose layer is kept, may have put a device of the host or a FIFO
// in its place.
func (d *rootDir) checkFile(name string) error {
	fd, err := d.open(name, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return gondola.Errorf(gondola.ErrPrecondition, "what is there is no regular file")
	}
	return nil
}

// touch makes an empty file if nothing is there.
func (d *rootDir) touch(name string) error {
	name = path.Clean("/" + name)
	if err := d.makeWay(name); err != nil {
		return err
	}
	if err := d.checkFile(name); err != nil {
		return err
	}
	fd, err := d.open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// write puts a file of a Config in place, over what the image has there.
func (d *rootDir) write(f gondola.File) error {
	data, err := base64.StdEncoding.DecodeString(f.RawValue)
	if err != nil {
		return gondola.Errorf(gondola.ErrInvalid, "raw_value is not base64: %w", err)
	}
	name := path.Clean("/" + f.GuestPath)
	if err := d.makeWay(name); err != nil {
		return err
	}
	if err := d.checkFile(name); err != nil {
		return err
	}
	fd, err := d.open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	if g := f.Gondola; g != nil {
		if err := file.Chown(g.User, g.Group); err != nil {
			return err
		}
	}
	mode := f.Mode & 0o7777
	if mode == 0 {
		mode = 0o644
	}
	return unix.Fchmod(fd, mode)
}
