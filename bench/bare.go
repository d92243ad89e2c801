package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// bare runs the demo image's program in a sandbox with nothing of ours around it: the same runsc or runc, a plain directory as its root.
type bare struct {
	program []string // the runtime and its flags
	root    string   // root file system
	dir     string
	netns   string
	count   int
}

// The link to a bare sandbox, in addresses for documentation (RFC 5737). Neighbours are known in advance, as on a Machine's link.
const (
	bareLink, bareHostMAC, bareMAC = "gbare", "02:00:00:00:00:01", "02:00:00:00:00:02"
	bareHostAddr, bareAddr         = "198.51.100.1", "198.51.100.2"
)

// newBare takes the driver's name: gvisor (with the flags that our driver uses) or runc.
func (b *bench) newBare(driver string) (*bare, error) {
	r := &bare{dir: filepath.Join(b.dir, "bare-"+driver), netns: fmt.Sprintf("gbenchbare%d", os.Getpid())}
	r.root = filepath.Join(r.dir, "root")
	r.program = []string{"runc", "--root=" + filepath.Join(r.dir, "state")}
	if driver == gvisor {
		runsc, err := b.host.pilot()
		if err != nil {
			return nil, err
		}
		r.program = []string{runsc, "runsc", "--root=" + filepath.Join(r.dir, "state"), "--platform=systrap", "--overlay2=none",
			"--host-settings=ignore", "--network=sandbox", "--gofer-network-namespace=/run/netns/" + r.netns}
	}
	if err := os.MkdirAll(filepath.Join(r.root, "proc"), 0o755); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(filepath.Join(b.bin, "gondola-hello"))
	if err != nil {
		return nil, err
	}
	return r, os.WriteFile(filepath.Join(r.root, "hello"), program, 0o755)
}

// network makes the sandbox's network namespace, which is not part of what is measured.
func (r *bare) network() error {
	in := []string{"-n", r.netns}
	for _, args := range [][]string{
		{"netns", "add", r.netns},
		{"link", "add", bareLink, "address", bareHostMAC, "type", "veth", "peer", "name", "eth0", "address", bareMAC, "netns", r.netns},
		{"addr", "add", bareHostAddr + "/30", "dev", bareLink},
		{"link", "set", bareLink, "up"},
		{"neigh", "replace", bareAddr, "lladdr", bareMAC, "dev", bareLink, "nud", "permanent"},
		append(in, "link", "set", "lo", "up"),
		append(in, "addr", "add", bareAddr+"/30", "dev", "eth0"),
		append(in, "link", "set", "eth0", "up"),
		append(in, "neigh", "replace", bareHostAddr, "lladdr", bareHostMAC, "dev", "eth0", "nud", "permanent"),
		append(in, "route", "add", "default", "via", bareHostAddr),
	} {
		if err := command("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// once runs the program and waits for its first byte.
func (r *bare) once(ctx context.Context) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r.count++
	name := fmt.Sprintf("gondola-bench-bare-%d", r.count)
	bundle := filepath.Join(r.dir, name)
	if err := r.writeBundle(bundle, name); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, command("ip", "netns", "delete", r.netns)) }() // takes the link with it
	if err := r.network(); err != nil {
		return 0, err
	}
	out, err := os.Create(filepath.Join(bundle, "output"))
	if err != nil {
		return 0, err
	}
	defer out.Close()
	defer func() { err = errors.Join(err, r.command(nil, "delete", "--force", name).Run()) }()
	began := time.Now()
	c := r.command(out, "run", "--detach", "--bundle="+bundle, name)
	if err := c.Start(); err != nil {
		return 0, err
	}
	err = firstByte(ctx, netip.AddrPortFrom(netip.MustParseAddr(bareAddr), helloPort))
	took = time.Since(began)
	if ran := c.Wait(); ran != nil {
		said, _ := os.ReadFile(out.Name())
		err = errors.Join(err, fmt.Errorf("%w: %s", ran, said))
	}
	return took, err
}

// command is a call of the runtime.
func (r *bare) command(out *os.File, args ...string) *exec.Cmd {
	c := exec.Command(r.program[0], append(slices.Clone(r.program[1:]), args...)...)
	if out != nil {
		c.Stdout, c.Stderr = out, out
	}
	return c
}

func (r *bare) writeBundle(bundle, name string) error {
	spec := map[string]any{
		"ociVersion": "1.1.0", "root": map[string]any{"path": r.root, "readonly": true}, "hostname": "bench",
		"process": map[string]any{"args": []string{"/hello"}, "cwd": "/", "env": []string{"PATH=/"}},
		"mounts":  []any{map[string]string{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux": map[string]any{"cgroupsPath": "/" + name, "namespaces": []any{map[string]string{"type": "pid"}, map[string]string{"type": "mount"},
			map[string]string{"type": "ipc"}, map[string]string{"type": "uts"}, map[string]string{"type": "network", "path": "/run/netns/" + r.netns}}},
	}
	config, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600)
}
