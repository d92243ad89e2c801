package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gondola/internal/driver"
	"gondola/internal/pilot"
)

// Volumes is where the volumes of a Machine are, by name.
type Volumes map[string]Volume

// Volume is how one volume is brought into containers: as a tmpfs inside the sandbox, or as a directory of the host.
type Volume struct {
	Index    int
	Tmpfs    bool   // of the sandbox, one for all its containers
	Source   string // on the host; of a Tmpfs only its name
	Host     bool   // Source was made by others
	ReadOnly bool
	Memory   bool // a tmpfs of the host is mounted at Source
	SizeMB   int
	Mode     uint32 // of an empty one
	Group    int
}

// PlaceVolumes decides for each volume of a Machine.
//
// A volume in memory is a tmpfs. Where the sandbox has file systems of its own (inside) that one is the sandbox's, in which everything works
// between containers (unix sockets, FIFOs, file locks) and which ends with the sandbox; but where only a part of it is mounted somewhere, and
// where there is nothing inside, it is mounted on the host. A volume on disk is a directory, so that its contents outlive the sandbox.
func PlaceVolumes(spec pilot.Spec, inside bool) Volumes {
	parts := map[string]bool{} // volume → some container mounts a part of it
	for _, c := range spec.Containers {
		for _, m := range c.Config.Mounts {
			if m.Gondola != nil && (m.Gondola.SubPath != "" || m.Gondola.SubPathExpr != "") {
				parts[m.Name] = true
			}
		}
	}
	out := Volumes{}
	for i, v := range spec.Volumes {
		p := Volume{Index: i, SizeMB: v.SizeMB, ReadOnly: v.Kind.ReadOnly()}
		p.Mode, p.Group = spec.VolumeMode()
		switch v.Kind {
		case pilot.VolumeMemory:
			p.Tmpfs = inside && !parts[v.Name]
			p.Memory = !p.Tmpfs
			p.Source = filepath.Join(spec.RunDir, "volumes", v.Name)
		case pilot.VolumeHost, pilot.VolumeImage:
			p.Host, p.Source = true, v.Source
		case pilot.VolumePayload:
			p.Source = filepath.Join(spec.RunDir, "payload", v.Name)
		default:
			p.Source = filepath.Join(spec.Dir, "volumes", v.Name)
		}
		out[v.Name] = p
	}
	return out
}

// Binds says whether a volume that containers write to is a bind.
func (vs Volumes) Binds() bool {
	for _, v := range vs {
		if !v.Tmpfs && !v.ReadOnly {
			return true
		}
	}
	return false
}

// Prepare makes the directories behind the volumes, and mounts those in memory.
func (vs Volumes) Prepare() error {
	for name, v := range vs {
		if v.Tmpfs || v.Host {
			continue
		}
		if err := v.prepare(); err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return nil
}

func (v Volume) prepare() error {
	if err := os.MkdirAll(filepath.Dir(v.Source), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(v.Source, 0o777); err == nil {
		if err := os.Chown(v.Source, 0, v.Group); err != nil && v.Group != 0 {
			return err
		}
		if err := unix.Chmod(v.Source, v.Mode); err != nil { // past the umask
			return err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return err
	}
	if !v.Memory {
		return nil
	}
	return MountTmpfs(v.Source, v.Options(), v.SizeMB)
}

// Options are those of a tmpfs for this volume, beside its size.
func (v Volume) Options() string { return fmt.Sprintf("mode=%#o,gid=%d", v.Mode, v.Group) }

// MountTmpfs mounts a tmpfs at dir, unless something is mounted there already. If sizeMB is zero, it may hold half of the host's memory.
func MountTmpfs(dir, options string, sizeMB int) error {
	points, err := driver.MountsBelow(dir)
	if err != nil || slices.Contains(points, dir) {
		return err
	}
	if sizeMB > 0 {
		options += fmt.Sprintf(",size=%dm", sizeMB)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
	}
	return nil
}

// Mount translates a mount of a run. Parts of volumes have been replaced by then (see MakeRootfs).
func (vs Volumes) Mount(m pilot.Mount) specs.Mount {
	out := specs.Mount{Destination: m.Path, Type: "bind", Source: m.Source, Options: []string{"rbind", "rw"}}
	if m.Volume != nil {
		v := vs[m.Volume.Name]
		if out.Source = v.Source; v.Host {
			out.Options = []string{"rbind", "nodev", "rw"}
		}
		if v.Tmpfs {
			out.Type, out.Options = "tmpfs", []string{"rw"}
		}
	}
	if m.ReadOnly || m.Volume != nil && vs[m.Volume.Name].ReadOnly {
		out.Options[len(out.Options)-1] = "ro"
	}
	return out
}
