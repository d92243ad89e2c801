package pilot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
)

// WriteSpec writes spec to Dir/spec.json, from where a pilot process reads it. A Spec holds no secrets.
func WriteSpec(spec Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	if err := writeFileAtomic(filepath.Join(spec.Dir, "spec.json"), data, 0o600, true); err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	return nil
}

// ReadSpec reads what WriteSpec wrote to dir.
func ReadSpec(dir string) (spec Spec, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "spec.json"))
	if err != nil {
		return spec, fmt.Errorf("read spec: %w", err)
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return spec, fmt.Errorf("read spec %s/spec.json: %w", dir, err)
	}
	return spec, nil
}

// writeEtc writes the files of /etc that every container sees, and makes the directories of volumes on disk.
func writeEtc(spec Spec) error {
	for _, f := range etcFiles(spec) {
		if err := os.MkdirAll(filepath.Dir(f.source), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		if err := writeFileAtomic(f.source, []byte(f.content), 0o644, false); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	for _, v := range spec.Volumes {
		if v.Kind != VolumeDisk {
			continue
		}
		if err := makeOpenDir(spec, volumeDir(spec, v)); err != nil {
			return fmt.Errorf("make volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// makeOpenDir makes the directory of a volume, into which every user may write.
func makeOpenDir(spec Spec, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil // its users may have changed its mode
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mode, group := spec.VolumeMode()
	if err := os.Chown(dir, 0, group); err != nil && group != 0 {
		return err
	}
	return unix.Chmod(dir, mode)
}

type etcFile struct{ source, path, content string }

// etcFiles are those that spec has content for.
func etcFiles(spec Spec) (files []etcFile) {
	hostname := spec.Hostname
	if hostname != "" {
		hostname += "\n"
	}
	for _, f := range []etcFile{{path: "/etc/hosts", content: spec.Hosts}, {path: "/etc/hostname", content: hostname},
		{path: "/etc/resolv.conf", content: spec.Resolv}} {
		if f.content != "" {
			f.source = filepath.Join(spec.RunDir, f.path)
			files = append(files, f)
		}
	}
	return files
}

// volumeDir is the directory of a volume on the host; empty for one that lives in the sandbox.
func volumeDir(spec Spec, v Volume) string {
	switch v.Kind {
	case VolumeDisk:
		return filepath.Join(spec.Dir, "volumes", v.Name)
	case VolumePayload:
		return filepath.Join(spec.RunDir, "payload", v.Name)
	case VolumeHost, VolumeImage:
		return v.Source
	case VolumeMemory:
		return ""
	}
	return ""
}

// mounts returns what is mounted into a container: its volumes, the files of /etc, the directory of /.fly/api, and the file for its last words, which it
// makes.
// vars are the variables that a sub-path may name.
func mounts(spec *Spec, c *Container, run int, vars map[string]string) ([]Mount, error) {
	var out []Mount
	taken := map[string]bool{}
	for _, m := range c.Config.Mounts {
		mount, err := volumeMount(spec, c, m, vars)
		if err != nil {
			return nil, err
		}
		taken[filepath.Clean(mount.Path)] = true
		out = append(out, mount)
	}
	for _, f := range etcFiles(*spec) {
		if !taken[f.path] {
			out = append(out, Mount{Source: f.source, Path: f.path})
		}
	}
	if spec.API != "" && !taken[doorPath] {
		out = append(out, Mount{Source: doorDir(spec), Path: doorPath, ReadOnly: true})
	}
	source := terminationFile(spec, c.Name, run)
	if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
		return nil, fmt.Errorf("make termination message file: %w", err)
	}
	if err := os.WriteFile(source, nil, 0o666); err != nil {
		return nil, fmt.Errorf("make termination message file: %w", err)
	}
	if err := os.Chmod(source, 0o666); err != nil { // past the umask: the container may run as anybody
		return nil, fmt.Errorf("make termination message file: %w", err)
	}
	return append(out, Mount{Source: source, Path: terminationPath(c)}), nil
}

func volumeMount(spec *Spec, c *Container, m gondola.ContainerMount, vars map[string]string) (Mount, error) {
	for i := range spec.Volumes {
		v := &spec.Volumes[i]
		if v.Name != m.Name {
			continue
		}
		mount := Mount{Volume: v, Source: volumeDir(*spec, *v), Path: m.Path, ReadOnly: v.Kind.ReadOnly()}
		if m.Gondola == nil {
			return mount, nil
		}
		mount.ReadOnly = mount.ReadOnly || m.Gondola.ReadOnly
		part, err := subPathOf(m.Gondola, vars)
		if err != nil {
			return Mount{}, gondola.Errorf(gondola.ErrPrecondition, "volumeMount %q of container %q: %w", m.Name, c.Name, err)
		}
		if part == "" {
			return mount, nil
		}
		mount.SubPath, err = subPath(mount.Source, part, !v.Kind.ReadOnly())
		if err != nil {
			return Mount{}, gondola.Errorf(gondola.ErrPrecondition, "failed to create subPath directory for volumeMount %q of container %q: %w", m.Name, c.Name, err)
		}
		return mount, nil
	}
	return Mount{}, gondola.Errorf(gondola.ErrInvalid, "container %s mounts volume %s, which the Machine does not have", c.Name, m.Name)
}

// subPathOf is the part of the volume that is mounted, variables replaced.
func subPathOf(m *gondola.MountExtension, vars map[string]string) (string, error) {
	if m.SubPathExpr == "" {
		return m.SubPath, nil
	}
	var missing []string
	part := expandFunc(m.SubPathExpr, func(name string) (string, bool) {
		value, ok := vars[name]
		if !ok {
			missing = append(missing, name)
		}
		return value, ok
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for variable %s of subPathExpr %q", strings.Join(missing, ", "), m.SubPathExpr)
	}
	if part == "" || filepath.IsAbs(part) {
		return "", fmt.Errorf("subPathExpr %q gives %q, which must be relative and not empty", m.SubPathExpr, part)
	}
	return part, nil
}

// subPath resolves a path below source, links included, and makes it a directory if it is not there. The result does not leave source.
func subPath(source, sub string, create bool) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("sub-path %q must be relative and stay inside its volume", sub)
	}
	if source == "" {
		return filepath.Clean(sub), nil
	}
	root, err := os.OpenRoot(source)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if _, err := root.Stat(sub); errors.Is(err, os.ErrNotExist) && create {
		if err := root.MkdirAll(sub, 0o755); err != nil {
			return "", err
		}
		if err := sameMode(root, sub); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(filepath.Join(source, sub))
	if err != nil {
		return "", err
	}
	base, err := filepath.EvalSymlinks(source)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(base, real)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("sub-path %q leads out of its volume", sub)
	}
	return rel, nil
}

// sameMode gives a new part of a volume the mode of the volume itself.
func sameMode(root *os.Root, sub string) error {
	whole, err := root.Stat(".")
	if err != nil {
		return err
	}
	return root.Chmod(sub, whole.Mode()&(os.ModePerm|os.ModeSetgid))
}

func terminationPath(c *Container) string {
	if ext := c.Config.Gondola; ext != nil && ext.Termination != nil && ext.Termination.Path != "" {
		return ext.Termination.Path
	}
	return "/dev/termination-log"
}

func terminationFile(spec *Spec, container string, run int) string {
	return filepath.Join(spec.RunDir, "termination", container+"-"+strconv.Itoa(run))
}

// lastWords returns the termination message of a run that has ended, and removes its file.
func lastWords(spec *Spec, c *Container, run int, failed bool, log *logFile) string {
	path := terminationFile(spec, c.Name, run)
	var text string
	if f, err := os.OpenFile(path, os.O_RDONLY, 0); err == nil {
		data, _ := io.ReadAll(io.LimitReader(f, 4096))
		f.Close()
		os.Remove(path)
		text = string(data)
	}
	ext := c.Config.Gondola
	if text == "" && failed && log != nil && ext != nil && ext.Termination != nil && ext.Termination.FallbackLog {
		text = log.tail()
	}
	return strings.ToValidUTF8(text, "�")
}
