package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func ls(t *tool) int {
	o, names, err := t.options("la1dAhRtr", "")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	show := func(name, path string) error {
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if o.has("l") {
			name = longEntry(fi, name, path)
		}
		_, err = fmt.Fprintln(t.out, name)
		return err
	}
	many := len(names) > 1 || o.has("R")
	var list func(dir string) error
	list = func(dir string) error {
		fi, err := os.Stat(dir)
		if err != nil {
			fi, err = os.Lstat(dir)
		}
		if err != nil {
			return err
		}
		if !fi.IsDir() || o.has("d") {
			return show(dir, dir)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if many {
			fmt.Fprintf(t.out, "%s:\n", dir)
		}
		if o.has("a") {
			err = errors.Join(show(".", dir), show("..", filepath.Join(dir, "..")))
		}
		if o.has("t") {
			slices.SortStableFunc(entries, func(a, b fs.DirEntry) int { return modTime(b).Compare(modTime(a)) })
		}
		if o.has("r") {
			slices.Reverse(entries)
		}
		var below []string
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") && !o.has("a") && !o.has("A") {
				continue
			}
			path := filepath.Join(dir, e.Name())
			err = errors.Join(err, show(e.Name(), path))
			if e.IsDir() {
				below = append(below, path)
			}
		}
		if o.has("R") {
			for _, b := range below {
				err = errors.Join(err, list(b))
			}
		}
		return err
	}
	return t.each(names, list)
}

func modTime(e fs.DirEntry) time.Time {
	if fi, err := e.Info(); err == nil {
		return fi.ModTime()
	}
	return time.Time{}
}

// modeString is a mode as ls -l writes it.
func modeString(m fs.FileMode) string {
	kind := map[fs.FileMode]string{fs.ModeDir: "d", fs.ModeSymlink: "l", fs.ModeNamedPipe: "p", fs.ModeSocket: "s",
		fs.ModeDevice: "b", fs.ModeDevice | fs.ModeCharDevice: "c"}[m.Type()]
	if kind == "" {
		kind = "-"
	}
	b := []byte(m.Perm().String()[1:])
	for i, special := range []struct {
		bit  fs.FileMode
		char byte
	}{{fs.ModeSetuid, 's'}, {fs.ModeSetgid, 's'}, {fs.ModeSticky, 't'}} {
		if at := 3*i + 2; m&special.bit != 0 && b[at] == 'x' {
			b[at] = special.char
		} else if m&special.bit != 0 {
			b[at] = special.char - 'a' + 'A'
		}
	}
	return kind + string(b)
}

func longEntry(fi fs.FileInfo, name, path string) string {
	links, owner, group := uint64(1), "?", "?"
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		links, owner, group = uint64(st.Nlink), userName(int(st.Uid)), groupName(int(st.Gid))
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		if to, err := os.Readlink(path); err == nil {
			name += " -> " + to
		}
	}
	return fmt.Sprintf("%s %4d %-8s %-8s %10d %s %s", modeString(fi.Mode()), links, owner, group, fi.Size(), fi.ModTime().Format("Jan _2 15:04"), name)
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}
