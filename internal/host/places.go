package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gondola"
	"gondola/internal/failpoint"
)

// places knows where things of Machines are.
type places struct {
	data, machines, sockets string
	instance                string
}

func newPlaces(data, instance, runRoot string) (places, error) {
	if data == "" || instance == "" || instance == "." || instance == ".." || strings.ContainsRune(instance, '/') {
		return places{}, gondola.Errorf(gondola.ErrInvalid, "a host needs a data directory (%q) and an instance name (%q)", data, instance)
	}
	abs, err := filepath.Abs(data)
	if err != nil {
		return places{}, err
	}
	// Mount points are known by their real paths.
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	} else if !errors.Is(err, fs.ErrNotExist) {
		return places{}, err
	}
	if runRoot == "" {
		runRoot = "/run/gondola"
	}
	return places{data: abs, machines: filepath.Join(abs, "machines"), sockets: filepath.Join(runRoot, instance), instance: instance}, nil
}

func (p places) dir(id gondola.MachineID) string    { return filepath.Join(p.machines, string(id)) }
func (p places) runDir(id gondola.MachineID) string { return filepath.Join(p.dir(id), "run") }
func (p places) socket(id gondola.MachineID) string {
	return filepath.Join(p.sockets, string(id)+".sock")
}

// api has no ending that a Machine's socket has.
func (p places) api() string { return filepath.Join(p.sockets, "api") }

func (p places) cgroup(id gondola.MachineID) string {
	return filepath.Join("gondola", p.instance, string(id))
}

// checkID keeps ids from leading anywhere but to a Machine's own places.
func checkID(id gondola.MachineID) error {
	if id == "" || strings.Trim(string(id), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return gondola.Errorf(gondola.ErrInvalid, "%q is no Machine id", id)
	}
	return nil
}

// unfinished begins the names of directories that are being made.
const unfinished = ".new-"

func (p places) removeUnfinished() error {
	old, err := filepath.Glob(filepath.Join(p.machines, unfinished+"*"))
	if err != nil {
		return err
	}
	for _, d := range old {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

// ensureMachineDir makes a Machine's directory together with the name of its worker, so that no other worker ever takes it for a leftover.
func (p places) ensureMachineDir(id gondola.MachineID, worker string) (made bool, err error) {
	if have, err := p.worker(id); err == nil {
		if have != worker {
			return false, gondola.Errorf(gondola.ErrConflict, "machine %s is on this host for worker %s", id, have)
		}
		return false, os.MkdirAll(p.runDir(id), 0o700)
	}
	tmp, err := os.MkdirTemp(p.machines, unfinished) // mode 0700
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "worker"), []byte(worker+"\n"), 0o600); err != nil {
		return false, err
	}
	if err := os.Mkdir(filepath.Join(tmp, "run"), 0o700); err != nil {
		return false, err
	}
	failpoint.Hit("host.prepare.written")
	err = os.Rename(tmp, p.dir(id))
	if errors.Is(err, fs.ErrExist) { // a directory that somebody made without a worker's name: keep what is in it
		if err := os.Rename(filepath.Join(tmp, "worker"), filepath.Join(p.dir(id), "worker")); err != nil {
			return false, err
		}
		return false, errors.Join(os.Chmod(p.dir(id), 0o700), os.MkdirAll(p.runDir(id), 0o700))
	}
	return err == nil, err
}

// worker reads whose Machine it is.
func (p places) worker(id gondola.MachineID) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.dir(id), "worker"))
	name := strings.TrimSpace(string(b))
	if err == nil && name == "" {
		return "", fs.ErrNotExist
	}
	return name, err
}

func (p places) removeSocket(id gondola.MachineID) error {
	if err := os.Remove(p.socket(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeMachineDir removes a Machine's directory. It gets another name first, so that a crash leaves no half of one.
func (p places) removeMachineDir(id gondola.MachineID) error {
	grave := filepath.Join(p.machines, unfinished+"gone-"+string(id))
	if err := os.RemoveAll(grave); err != nil {
		return err
	}
	err := os.Rename(p.dir(id), grave)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	failpoint.Hit("host.release.renamed")
	return os.RemoveAll(grave)
}

// leftovers lists the ids of a worker's Machines, and of those that belong to none, that have a directory, a network, a socket or a cgroup.
func (p places) leftovers(worker string, attached []gondola.MachineID) ([]gondola.MachineID, error) {
	var ids []gondola.MachineID
	consider := func(name string) {
		id := gondola.MachineID(name)
		if checkID(id) != nil {
			return
		}
		if owner, err := p.worker(id); err != nil || owner == worker {
			ids = append(ids, id)
		}
	}
	for _, id := range attached {
		consider(string(id))
	}
	dirs, err := os.ReadDir(p.machines)
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		consider(d.Name())
	}
	sockets, err := os.ReadDir(p.sockets)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, s := range sockets {
		if name, ok := strings.CutSuffix(s.Name(), ".sock"); ok {
			consider(name)
		}
	}
	for _, dir := range cgroupDirs(filepath.Join("gondola", p.instance)) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("cgroups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				consider(e.Name())
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// launchedImages are the digests of the images that the Machines of all workers run and mount, by the specs in their directories.
func (p places) launchedImages() (map[string]bool, error) {
	specs, err := filepath.Glob(filepath.Join(p.machines, "*", "spec.json"))
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, path := range specs {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // destroyed meanwhile
		}
		if err != nil {
			return nil, err
		}
		var spec struct {
			Containers []struct {
				Tree string `json:"tree"`
			} `json:"containers"`
			Volumes []struct {
				Kind   string `json:"kind"`
				Source string `json:"source"`
			} `json:"volumes"`
		}
		if err := json.Unmarshal(b, &spec); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		use := func(tree string) { out["sha256:"+filepath.Base(filepath.Dir(tree))] = true } // images/trees/<hex>/rootfs
		for _, c := range spec.Containers {
			use(c.Tree)
		}
		for _, v := range spec.Volumes {
			if v.Kind == "image" {
				use(v.Source)
			}
		}
	}
	return out, nil
}
