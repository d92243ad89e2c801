package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tarTool packs and unpacks as far as `kubectl cp` needs, and a little more: tar cf - path…, tar xmf - -C dir, tar tzf file.
func tarTool(t *tool) int {
	if len(t.args) > 0 && !strings.HasPrefix(t.args[0], "-") {
		t.args[0] = "-" + t.args[0] // the bundled form, whose only value is that of f and comes next
	}
	o, names, err := t.options("cxtvzmpokh", "fC", "no-same-permissions", "no-same-owner", "same-owner", "preserve-permissions",
		"numeric-owner", "warning=", "overwrite", "directory=", "strip-components=")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	dir := o["C"]
	if o["directory"] != "" {
		dir = o["directory"]
	}
	a := archiver{t: t, o: o, dir: dir}
	switch {
	case o.has("c"):
		err = a.pack(names)
	case o.has("x"), o.has("t"):
		err = a.unpack(names)
	default:
		return t.failf(2, "use one of -c, -x and -t")
	}
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return a.code
}

type archiver struct {
	t    *tool
	o    options
	dir  string // where names are relative to; if empty, the working directory
	code int
}

// say prints a name with -v, where it does not get into an archive.
func (a *archiver) say(name string) {
	if a.o.has("v") {
		fmt.Fprintln(a.t.err, name)
	}
}

func (a *archiver) pack(names []string) (err error) {
	if len(names) == 0 {
		return errors.New("there is nothing to pack")
	}
	var out io.Writer = a.t.out
	if f := a.o["f"]; f != "" && f != "-" {
		file, err := os.Create(f)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	if a.o.has("z") {
		z := gzip.NewWriter(out)
		defer func() { err = errors.Join(err, z.Close()) }()
		out = z
	}
	w := tar.NewWriter(out)
	inodes := map[uint64]string{} // files with several names → the first of them
	for _, n := range names {
		err := filepath.WalkDir(filepath.Join(a.dir, n), func(p string, d fs.DirEntry, err error) error {
			if err == nil {
				name := n
				if rel, rerr := filepath.Rel(filepath.Join(a.dir, n), p); rerr == nil && rel != "." {
					name = path.Join(n, rel)
				}
				err = a.add(w, p, name, inodes)
			}
			var pe *fs.PathError
			if errors.As(err, &pe) { // one file that cannot be read keeps no other
				a.code = a.t.fail1(err)
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return w.Close()
}

func (a *archiver) add(w *tar.Writer, p, name string, inodes map[uint64]string) error {
	look := os.Lstat
	if a.o.has("h") {
		look = os.Stat
	}
	fi, err := look(p)
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket != 0 {
		return nil // as tar does
	}
	target := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, target)
	if err != nil {
		return err
	}
	if h.Name = strings.TrimLeft(name, "/"); h.Name == "" {
		h.Name = "."
	}
	if fi.IsDir() {
		h.Name += "/"
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Nlink > 1 && fi.Mode().IsRegular() {
		if first, ok := inodes[st.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			inodes[st.Ino] = h.Name
		}
	}
	var f *os.File
	if h.Typeflag == tar.TypeReg {
		if f, err = os.Open(p); err != nil {
			return err
		}
		defer f.Close()
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	a.say(h.Name)
	if f == nil {
		return nil
	}
	n, err := io.Copy(w, io.LimitReader(f, h.Size)) // it may grow meanwhile
	if err == nil && n < h.Size {
		_, err = io.CopyN(w, zeros{}, h.Size-n) // or shrink
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (a *archiver) unpack(wanted []string) error {
	in := a.t.in
	if f := a.o["f"]; f != "" && f != "-" {
		file, err := os.Open(f)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	if a.o.has("z") {
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		in = z
	}
	strip := 0
	if s := a.o["strip-components"]; s != "" {
		if _, err := fmt.Sscan(s, &strip); err != nil {
			return fmt.Errorf("--strip-components=%s is no number", s)
		}
	}
	r := tar.NewReader(in)
	dirs := map[string]time.Time{} // their times are set last
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if !asked(name, wanted) {
			continue
		}
		if a.o.has("t") {
			fmt.Fprintln(a.t.out, h.Name)
			continue
		}
		parts := strings.Split(name, "/")
		if name = strings.Join(parts[min(strip, len(parts)):], "/"); name == "" {
			continue
		}
		a.say(h.Name)
		to := filepath.Join(a.dir, name)
		if err := a.extract(h, r, to); err != nil {
			a.code = a.t.fail1(err)
		} else if h.Typeflag == tar.TypeDir && !a.o.has("m") {
			dirs[to] = h.ModTime
		}
	}
	for dir, when := range dirs {
		if err := os.Chtimes(dir, when, when); err != nil {
			a.code = a.t.fail1(err)
		}
	}
	_, err := io.Copy(io.Discard, in) // or who sends it sees a broken pipe
	return err
}

func asked(name string, wanted []string) bool {
	for _, w := range wanted {
		w = strings.Trim(path.Clean("/"+w), "/")
		if name == w || strings.HasPrefix(name, w+"/") {
			return true
		}
	}
	return len(wanted) == 0
}

func (a *archiver) extract(h *tar.Header, r io.Reader, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode).Perm()
	if fi, err := os.Lstat(to); err == nil && !(fi.IsDir() && h.Typeflag == tar.TypeDir) {
		if a.o.has("k") {
			return nil
		}
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.MkdirAll(to, mode|0o700); err != nil {
			return err
		}
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, to)
	case tar.TypeLink:
		return os.Link(filepath.Join(a.dir, path.Clean("/"+h.Linkname)), to)
	case tar.TypeReg:
		f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeFifo:
		return syscall.Mkfifo(to, uint32(mode))
	default:
		return fmt.Errorf("%s: leaving out an entry of type %q", h.Name, h.Typeflag)
	}
	// As GNU tar: root restores owners, and modes without regard to the umask.
	if os.Geteuid() == 0 && !a.o.has("no-same-owner") && !a.o.has("o") {
		if err := os.Lchown(to, h.Uid, h.Gid); err != nil && !errors.Is(err, syscall.EPERM) {
			return err
		}
	}
	if (os.Geteuid() == 0 || a.o.has("p")) && !a.o.has("no-same-permissions") {
		if err := syscall.Chmod(to, uint32(h.Mode&0o7777)); err != nil {
			return err
		}
	}
	if !a.o.has("m") && h.Typeflag == tar.TypeReg {
		return os.Chtimes(to, h.ModTime, h.ModTime)
	}
	return nil
}
