package driver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"gondola/internal/pilot"
)

// Rootfs is the directory of all that a container writes to its root file systems.
func Rootfs(spec *pilot.Spec, container string) string {
	return filepath.Join(spec.Dir, "rootfs", container)
}

// RunRootfs is the directory in Rootfs for one run. Where Spec.KeepsRootfs all runs over the same image have one: its name says of which image it
// is, so that no run ever begins with what was written over another.
func RunRootfs(spec *pilot.Spec, c *pilot.Container, attempt int) string {
	name := strconv.Itoa(attempt)
	if spec.KeepsRootfs(c.Name) {
		sum := sha256.Sum256([]byte(c.Tree))
		name = "over-" + hex.EncodeToString(sum[:8])
	}
	return filepath.Join(Rootfs(spec, c.Name), name)
}

// RemoveRootfs removes what a container that has ended has written, unless Spec.KeepsRootfs. Nothing is mounted there any more.
func RemoveRootfs(spec *pilot.Spec, container string) error {
	if spec.KeepsRootfs(container) {
		return nil
	}
	return os.RemoveAll(Rootfs(spec, container))
}

// ClearRootfs removes what the containers of a sandbox that has ended have written, but for what a snapshot needs and what Spec.KeepsRootfs over the
// image that the container has by now. Nothing is mounted there any more.
func ClearRootfs(spec *pilot.Spec) error {
	if pilot.HasSnapshot(spec.Dir) {
		return nil
	}
	if !spec.KeepRootfs {
		return os.RemoveAll(Rootfs(spec, ""))
	}
	kept := map[string]bool{}
	for i := range spec.Containers {
		if c := &spec.Containers[i]; spec.KeepsRootfs(c.Name) {
			kept[RunRootfs(spec, c, 0)] = true
		}
	}
	dirs, err := filepath.Glob(Rootfs(spec, "*/*")) // of runs
	errs := []error{err}
	for _, dir := range dirs {
		if !kept[dir] {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}
