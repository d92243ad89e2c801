package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/worker"
)

// Gateway implements worker.Host.
func (w *WorkerHost) Gateway(network, name string) []netip.Addr {
	return w.network.GatewayAddresses(network, name)
}

// gatewayFiles is where the file system of a gateway is.
func (p places) gatewayFiles(network, name string) string {
	return filepath.Join(p.data, "gateways", network, name, "files")
}

// ensureGatewayFiles makes what every node has, where it is not there: /etc/hosts and /tmp.
func (w *WorkerHost) ensureGatewayFiles(network, name string) (string, error) {
	for _, s := range []string{network, name} {
		if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") {
			return "", gondola.Errorf(gondola.ErrInvalid, "gateway %q of network %q: no such name can be", name, network)
		}
	}
	dir := w.places.gatewayFiles(network, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// Made aside and renamed: a crash leaves no half of it.
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), unfinished)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, a := range w.Gateway(network, name) {
		fmt.Fprintf(&hosts, "%s\t%s\n", a, name)
	}
	err = errors.Join(os.Chmod(tmp, 0o755), os.Mkdir(filepath.Join(tmp, "etc"), 0o755), os.Mkdir(filepath.Join(tmp, "tmp"), 0o777),
		os.WriteFile(filepath.Join(tmp, "etc", "hosts"), []byte(hosts.String()), 0o644), unix.Chmod(filepath.Join(tmp, "tmp"), 0o1777))
	if err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return "", err
	}
	return dir, nil
}

// holdPaths binds the paths of a Machine below its own directory, where they stay what they are whatever happens to the names, and returns
// where each volume's is. They go with everything that is mounted there.
func (w *WorkerHost) holdPaths(m worker.HostMachine) (map[string]string, error) {
	if len(m.Paths) == 0 {
		return nil, nil
	}
	dir, err := w.ensureGatewayFiles(m.Network, m.Gateway)
	if err != nil {
		return nil, fmt.Errorf("files of gateway %s: %w", m.Gateway, err)
	}
	root, err := openFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("files of gateway %s: %w", m.Gateway, err)
	}
	defer root.close()
	out := map[string]string{}
	for i, p := range m.Paths {
		held := filepath.Join(w.places.runDir(m.ID), "paths", strconv.Itoa(i))
		if err := root.hold(p, held); err != nil {
			return nil, err
		}
		out[p.Volume] = held
	}
	return out, nil
}

// hostsFile reads what a gateway has as /etc/hosts.
func (w *WorkerHost) hostsFile(_ context.Context, m worker.HostMachine) (string, error) {
	dir, err := w.ensureGatewayFiles(m.Network, m.Gateway)
	if err != nil {
		return "", fmt.Errorf("files of gateway %s: %w", m.Gateway, err)
	}
	root, err := openFiles(dir)
	if err != nil {
		return "", err
	}
	defer root.close()
	fd, err := root.open("/etc/hosts", unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", nil // a Pod has removed it: then there is none
	}
	f := os.NewFile(uintptr(fd), "hosts")
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", err
	}
	const enough = 64 << 10
	b, err := io.ReadAll(io.LimitReader(f, enough))
	return string(b), err
}

// files is the file system of a gateway. Machines write in it, so its names are only ever resolved by the kernel, and below its root: a
// symbolic link, absolute or with "..", never leads out of it.
type files struct{ fd int }

func openFiles(dir string) (*files, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &files{fd}, nil
}

func (f *files) close() { unix.Close(f.fd) }

func (f *files) open(name string, flags int) (int, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o644
	}
	return unix.Openat2(f.fd, name, how)
}

// hold finds or makes a path and binds it at held.
func (f *files) hold(p worker.HostPath, held string) error {
	fd, err := f.find(path.Clean(p.Path), p.Type)
	if err != nil {
		return notAsWanted(p, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	switch isFile := strings.HasPrefix(p.Type, gondola.PathFile); {
	case kind != unix.S_IFDIR && kind != unix.S_IFREG:
		return gondola.Errorf(gondola.ErrPrecondition, "volume %q: hostPath %s is neither a directory nor a file", p.Volume, p.Path)
	case isFile && kind != unix.S_IFREG:
		return gondola.Errorf(gondola.ErrPrecondition, "volume %q: hostPath type check failed: %s is not a file", p.Volume, p.Path)
	case strings.HasPrefix(p.Type, gondola.PathDirectory) && kind != unix.S_IFDIR:
		return gondola.Errorf(gondola.ErrPrecondition, "volume %q: hostPath type check failed: %s is not a directory", p.Volume, p.Path)
	}
	return bind(fd, kind == unix.S_IFDIR, held)
}

func notAsWanted(p worker.HostPath, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return gondola.Errorf(gondola.ErrPrecondition, "volume %q: hostPath type check failed: %s does not exist on the node", p.Volume, p.Path)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENAMETOOLONG):
		return gondola.Errorf(gondola.ErrPrecondition, "volume %q: hostPath %s of the node: %w", p.Volume, p.Path, err)
	}
	return fmt.Errorf("volume %q: path %s of the gateway: %w", p.Volume, p.Path, err)
}

// find opens a path, after making it where its type says so.
func (f *files) find(name, kind string) (int, error) {
	fd, err := f.open(name, unix.O_PATH)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	switch kind {
	case "", gondola.PathDirectoryOrCreate:
		err = f.mkdirAll(name)
	case gondola.PathFileOrCreate:
		var made int
		if made, err = f.open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_NONBLOCK); err == nil {
			unix.Close(made)
		}
	}
	if err != nil {
		return -1, err
	}
	return f.open(name, unix.O_PATH)
}

// mkdirAll makes a directory and its parents, mode 0755. One that another Machine makes meanwhile is fine.
func (f *files) mkdirAll(name string) error {
	fd, err := f.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		return unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return err
	}
	if err := f.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	parent, err := f.open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, path.Base(name), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// bind mounts what fd is at held, in place of what an earlier launch had there. Devices in it are none, and programs get nobody's rights.
func bind(fd int, isDir bool, held string) error {
	if err := driver.UnmountBelow(held); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(held), 0o700); err != nil {
		return err
	}
	if err := os.Remove(held); err != nil && !errors.Is(err, os.ErrNotExist) { // it may be a directory where now a file is wanted
		return err
	}
	var err error
	if isDir {
		err = os.Mkdir(held, 0o755)
	} else {
		err = os.WriteFile(held, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), held, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", held, err)
	}
	const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NODEV | unix.MS_NOSUID
	if err := unix.Mount("", held, "", flags, ""); err != nil {
		return errors.Join(fmt.Errorf("bind %s without devices: %w", held, err), driver.UnmountBelow(held))
	}
	return nil
}
