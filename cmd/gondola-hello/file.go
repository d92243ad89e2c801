package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func cat(t *tool) int {
	_, files, err := t.options("u", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.inputs(files, func(_ string, r io.Reader) error {
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Read(buf)
			if _, werr := t.out.Write(buf[:n]); werr != nil {
				return werr
			}
			if werr := t.out.Flush(); werr != nil { // what comes in slowly goes out at once
				return werr
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

func tee(t *tool) int {
	o, files, err := t.options("a", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if o.has("a") {
		flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	outs := []io.Writer{os.Stdout}
	for _, f := range files {
		file, err := os.OpenFile(f, flags, 0o666)
		if err != nil {
			return t.fail1(err)
		}
		defer file.Close()
		outs = append(outs, file)
	}
	if _, err := io.Copy(io.MultiWriter(outs...), t.in); err != nil {
		return t.fail1(err)
	}
	return 0
}

func stat(t *tool) int {
	_, names, err := t.options("", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.each(names, func(n string) error {
		fi, err := os.Lstat(n)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(t.out, "%s\n  mode %04o\n  modified %s\n", longEntry(fi, n, n), fi.Mode().Perm(), fi.ModTime().Format(time.RFC3339Nano))
		return err
	})
}

func mkdir(t *tool) int {
	o, names, err := t.options("p", "m")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.each(names, func(n string) error {
		make := os.Mkdir
		if o.has("p") {
			make = os.MkdirAll
		}
		if err := make(n, 0o777); err != nil || !o.has("m") {
			return err
		}
		mode, err := strconv.ParseUint(o["m"], 8, 12)
		if err != nil {
			return err
		}
		return syscall.Chmod(n, uint32(mode))
	})
}

func rmdir(t *tool) int {
	_, names, err := t.options("", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.each(names, func(n string) error { return syscall.Rmdir(n) })
}

func rm(t *tool) int {
	o, names, err := t.options("rRf", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.each(names, func(n string) error {
		if base := filepath.Base(filepath.Clean(n)); base == "/" || base == ".." || base == "." {
			return fmt.Errorf("%s is not removed", n)
		}
		fi, err := os.Lstat(n)
		if errors.Is(err, fs.ErrNotExist) && o.has("f") {
			return nil
		}
		if err != nil {
			return err
		}
		if o.has("r") || o.has("R") {
			return os.RemoveAll(n)
		}
		if fi.IsDir() {
			return fmt.Errorf("%s is a directory: use -r", n)
		}
		return os.Remove(n)
	})
}

func touch(t *tool) int {
	o, names, err := t.options("c", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.each(names, func(n string) error {
		now := time.Now()
		err := os.Chtimes(n, now, now)
		if !errors.Is(err, fs.ErrNotExist) || o.has("c") {
			return err
		}
		f, err := os.OpenFile(n, os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		return f.Close()
	})
}

func ln(t *tool) int {
	o, names, err := t.options("sfn", "")
	if err != nil || len(names) != 2 {
		return t.failf(2, "ln [-sf] target name")
	}
	if o.has("f") {
		if err := os.Remove(names[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return t.fail1(err)
		}
	}
	link := os.Link
	if o.has("s") {
		link = os.Symlink
	}
	if err := link(names[0], names[1]); err != nil {
		return t.fail1(err)
	}
	return 0
}

func readlink(t *tool) int {
	o, names, err := t.options("f", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.each(names, func(n string) error {
		read := os.Readlink
		if o.has("f") {
			read = filepath.EvalSymlinks
		}
		to, err := read(n)
		if err == nil {
			fmt.Fprintln(t.out, to)
		}
		return err
	})
}

// chmod takes an octal mode, or "+x" and the like.
func chmod(t *tool) int {
	if len(t.args) < 2 {
		return t.failf(2, "chmod [-R] mode file…")
	}
	args, recursive := t.args, t.args[0] == "-R"
	if recursive {
		args = args[1:]
	}
	change, err := modeChange(args[0])
	if err != nil {
		return t.failf(2, "%v", err)
	}
	apply := func(n string) error {
		fi, err := os.Stat(n)
		if err != nil {
			return err
		}
		return syscall.Chmod(n, change(uint32(fi.Sys().(*syscall.Stat_t).Mode&0o7777)))
	}
	return t.each(args[1:], func(n string) error { return walk(n, recursive, apply) })
}

// walk calls f for n and, if told, all below.
func walk(n string, recursive bool, f func(string) error) error {
	if !recursive {
		return f(n)
	}
	return filepath.WalkDir(n, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return f(path)
	})
}

func modeChange(s string) (func(uint32) uint32, error) {
	if m, err := strconv.ParseUint(s, 8, 12); err == nil {
		return func(uint32) uint32 { return uint32(m) }, nil
	}
	at := strings.IndexAny(s, "+-=")
	if at < 0 {
		return nil, fmt.Errorf("mode %q: use an octal number or [ugoa]+rwx", s)
	}
	who := uint32(0)
	for _, c := range s[:at] {
		who |= map[rune]uint32{'u': 0o700, 'g': 0o070, 'o': 0o007, 'a': 0o777}[c]
	}
	if who == 0 {
		who = 0o777
	}
	what := uint32(0)
	for _, c := range s[at+1:] {
		bits, ok := map[rune]uint32{'r': 0o444, 'w': 0o222, 'x': 0o111}[c]
		if !ok {
			return nil, fmt.Errorf("mode %q: use an octal number or [ugoa]+rwx", s)
		}
		what |= bits
	}
	return func(m uint32) uint32 {
		switch s[at] {
		case '+':
			return m | who&what
		case '-':
			return m &^ (who & what)
		}
		return m&^who | who&what
	}, nil
}

func chown(t *tool) int {
	o, names, err := t.options("Rh", "")
	if err != nil || len(names) < 2 {
		return t.failf(2, "chown [-R] user[:group] file…")
	}
	owner, group, _ := strings.Cut(names[0], ":")
	uid, err := lookupID(owner, func(s string) (string, error) {
		u, err := user.Lookup(s)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return t.fail1(err)
	}
	gid, err := lookupID(group, func(s string) (string, error) {
		g, err := user.LookupGroup(s)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	if err != nil {
		return t.fail1(err)
	}
	return t.each(names[1:], func(n string) error {
		return walk(n, o.has("R"), func(path string) error { return os.Lchown(path, uid, gid) })
	})
}

func lookupID(s string, find func(string) (string, error)) (int, error) {
	if s == "" {
		return -1, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		return n, nil
	}
	found, err := find(s)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(found)
}

// into is where a copy of src goes: dst itself, or a name in it where dst is a directory.
func into(dst, src string) string {
	if fi, err := os.Stat(dst); err == nil && fi.IsDir() {
		return filepath.Join(dst, filepath.Base(src))
	}
	return dst
}

func cp(t *tool) int {
	o, names, err := t.options("rRapf", "")
	if err != nil || len(names) < 2 {
		return t.failf(2, "cp [-r] from… to")
	}
	dst := names[len(names)-1]
	return t.each(names[:len(names)-1], func(src string) error {
		fi, err := os.Stat(src)
		if err != nil {
			return err
		}
		if fi.IsDir() && !o.has("r") && !o.has("R") && !o.has("a") {
			return fmt.Errorf("%s is a directory: use -r", src)
		}
		return copyTree(src, into(dst, src))
	})
}

func copyTree(src, dst string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		fi, err := os.Stat(path)
		if d.Type()&fs.ModeSymlink != 0 && path != src {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		if err != nil {
			return err
		}
		if fi.IsDir() {
			return os.MkdirAll(to, fi.Mode().Perm()|0o700)
		}
		return copyFile(path, to, fi.Mode().Perm())
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func mv(t *tool) int {
	_, names, err := t.options("fn", "")
	if err != nil || len(names) < 2 {
		return t.failf(2, "mv from… to")
	}
	dst := names[len(names)-1]
	return t.each(names[:len(names)-1], func(src string) error {
		to := into(dst, src)
		err := os.Rename(src, to)
		if !errors.Is(err, syscall.EXDEV) {
			return err
		}
		if err := copyTree(src, to); err != nil {
			return err
		}
		return os.RemoveAll(src)
	})
}

func du(t *tool) int {
	_, names, err := t.options("shk", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	return t.each(names, func(n string) error {
		var blocks int64
		err := walk(n, true, func(path string) error {
			fi, err := os.Lstat(path)
			if err == nil {
				blocks += fi.Sys().(*syscall.Stat_t).Blocks
			}
			return err
		})
		fmt.Fprintf(t.out, "%d\t%s\n", blocks/2, n)
		return err
	})
}

// find knows -name, -type and -maxdepth.
func find(t *tool) int {
	var roots []string
	args := t.args
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		roots, args = append(roots, args[0]), args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	pattern, kind, depth := "*", "", 1<<30
	for ; len(args) >= 2; args = args[2:] {
		switch args[0] {
		case "-name":
			pattern = args[1]
		case "-type":
			kind = args[1]
		case "-maxdepth":
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return t.fail1(err)
			}
			depth = n
		default:
			return t.failf(2, "unknown test %s: there are -name, -type and -maxdepth", args[0])
		}
	}
	if len(args) > 0 && args[0] != "-print" {
		return t.failf(2, "unknown test %s: there are -name, -type and -maxdepth", args[0])
	}
	return t.each(roots, func(root string) error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				t.fail1(err)
				return nil
			}
			rel, _ := filepath.Rel(root, path)
			level := strings.Count(rel, "/") + 1
			if rel == "." {
				level = 0
			}
			match, err := filepath.Match(pattern, d.Name())
			if err != nil {
				return err
			}
			letter := map[fs.FileMode]string{0: "f", fs.ModeDir: "d", fs.ModeSymlink: "l", fs.ModeNamedPipe: "p", fs.ModeSocket: "s"}[d.Type()]
			if match && level <= depth && (kind == "" || kind == letter) {
				fmt.Fprintln(t.out, path)
			}
			if d.IsDir() && level >= depth {
				return fs.SkipDir
			}
			return nil
		})
	})
}

func sha256sum(t *tool) int {
	_, names, err := t.options("", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	return t.inputs(names, func(name string, r io.Reader) error {
		h := sha256.New()
		if _, err := io.Copy(h, r); err != nil {
			return err
		}
		_, err := fmt.Fprintf(t.out, "%x  %s\n", h.Sum(nil), name)
		return err
	})
}

func syncDisks(*tool) int {
	syscall.Sync()
	return 0
}
