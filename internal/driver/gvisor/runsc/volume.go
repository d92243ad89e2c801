package runsc

import (
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gondola/internal/pilot"
)

// volumes is where the volumes of a Machine are, by name.
type volumes map[string]volume

// volume is how one volume is brought into containers: as a tmpfs inside the sandbox, or as a directory of the host.
type volume struct {
	index    int
	tmpfs    bool   // of the sandbox, one for all its containers
	source   string // on the host; of a tmpfs only its name
	readOnly bool
	sizeMB   int
}

// placeVolumes decides for each volume of a Machine.
//
// A volume in memory is a tmpfs of the sandbox, in which everything works between containers (unix sockets, FIFOs, file locks) and which ends
// with the sandbox; where only a part of it is mounted somewhere it is a directory in RunDir. A volume on disk is a directory, so that its
// contents outlive the sandbox. To each container the sandbox shows such a directory as a file system of its own: files are shared, also as
// they change, and unix sockets connect by way of the host (--host-uds=all), but FIFOs and file locks do not reach the other containers.
func placeVolumes(spec pilot.Spec) volumes {
	parts := map[string]bool{} // volume → some container mounts a part of it
	for _, c := range spec.Containers {
		for _, m := range c.Config.Mounts {
			if m.Gondola != nil && m.Gondola.SubPath != "" {
				parts[m.Name] = true
			}
		}
	}
	out := volumes{}
	for i, v := range spec.Volumes {
		p := volume{index: i, sizeMB: v.SizeMB}
		switch v.Kind {
		case pilot.VolumeMemory:
			p.tmpfs = !parts[v.Name]
			p.source = filepath.Join(spec.RunDir, "volumes", v.Name)
		case pilot.VolumePayload:
			p.readOnly = true
			p.source = filepath.Join(spec.RunDir, "payload", v.Name)
		default:
			p.source = filepath.Join(spec.Dir, "volumes", v.Name)
		}
		out[v.Name] = p
	}
	return out
}

// binds says whether a volume that containers write to is a bind.
func (vs volumes) binds() bool {
	for _, v := range vs {
		if !v.tmpfs && !v.readOnly {
			return true
		}
	}
	return false
}

// prepareVolumes makes the directories behind the volumes.
func (r *Runtime) prepareVolumes() error {
	for name, v := range r.volumes {
		if v.tmpfs {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(v.source), 0o700); err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
		if err := os.Mkdir(v.source, 0o777); err != nil {
			if os.IsExist(err) {
				continue
			}
			return fmt.Errorf("volume %s: %w", name, err)
		}
		if err := os.Chmod(v.source, 0o777); err != nil { // past the umask
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return nil
}

// annotations tell runsc which mounts the containers of a sandbox share. All of them carry the same.
func (vs volumes) annotations() map[string]string {
	out := map[string]string{}
	hint := func(name, source, options string) {
		prefix := "dev.gvisor.spec.mount." + name + "."
		out[prefix+"source"] = source
		out[prefix+"type"] = "tmpfs"
		out[prefix+"share"] = "pod"
		out[prefix+"options"] = options
	}
	hint("shm", shmSource, "mode=1777")
	for _, v := range vs {
		if !v.tmpfs {
			continue
		}
		options := "mode=0777"
		if v.sizeMB > 0 {
			options += fmt.Sprintf(",size=%dm", v.sizeMB)
		}
		hint(fmt.Sprintf("v%d", v.index), v.source, options)
	}
	return out
}

// shmSource names the /dev/shm that all containers of a Machine share, as they share their IPC namespace.
const shmSource = "/dev/shm"

// mount translates a mount of a run. Parts of volumes have been replaced by then (see holdParts).
func (vs volumes) mount(m pilot.Mount) specs.Mount {
	out := specs.Mount{Destination: m.Path, Type: "bind", Source: filepath.Join(m.Source, m.SubPath), Options: []string{"rbind", "rw"}}
	if m.Volume != nil {
		v := vs[m.Volume.Name]
		out.Source = v.source
		if v.tmpfs {
			out.Type, out.Options = "tmpfs", []string{"rw"}
		}
	}
	if m.ReadOnly || m.Volume != nil && vs[m.Volume.Name].readOnly {
		out.Options[len(out.Options)-1] = "ro"
	}
	return out
}
