package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// inventory counts what an installation has on the host, by a description of each thing.
type inventory map[string]int

// beyond lists what there is more of than before.
func (i inventory) beyond(before inventory) (more []string) {
	for _, what := range slices.Sorted(maps.Keys(i)) {
		if n := i[what] - before[what]; n > 1 {
			more = append(more, fmt.Sprintf("%d times %s", n, what))
		} else if n == 1 {
			more = append(more, what)
		}
	}
	return more
}

// patience is how long an installation has to give back what the specs had: their namespaces are deleted behind them.
const patience = 3 * time.Minute

// settle waits until there is nothing beyond before, and lists what is there when that takes too long.
func (h *host) settle(ctx context.Context, before inventory) ([]string, error) {
	for deadline := time.Now().Add(patience); ; {
		now, err := h.inventory()
		if err != nil {
			return nil, err
		}
		left := now.beyond(before)
		if len(left) == 0 || time.Now().After(deadline) {
			return left, nil
		}
		select {
		case <-ctx.Done():
			return left, ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

// inventory looks for processes, network namespaces and links, mounts, cgroups, nft rules, loop devices, and the folders of Machines and disks.
func (h *host) inventory() (inventory, error) {
	out := inventory{}
	h.processes(out)
	h.cgroups(out)
	for _, look := range []func(inventory) error{h.mounts, h.links, h.rules} {
		if err := look(out); err != nil {
			return nil, err
		}
	}
	for kind, pattern := range map[string]string{
		"network namespace": "/run/netns/gondola-" + h.instance + "-*", "socket": "/run/gondola/" + h.instance + "/*",
		"machine": filepath.Join(h.dir, "data", "machines", "*"), "volume": filepath.Join(h.dir, "data", "volumes", "*"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			out[kind+" "+filepath.Base(f)]++
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, l := range loops {
		if file, err := os.ReadFile(l); err == nil && h.own(string(file)) {
			out["loop device of "+strings.TrimSpace(string(file))]++
		}
	}
	return out, nil
}

// own says whether a text names the installation or its folder.
func (h *host) own(text string) bool {
	return strings.Contains(text, h.dir+"/") || strings.Contains(text, "/gondola/"+h.instance)
}

// processes adds those that were started from the folder, name it, or are in a cgroup of the installation.
func (h *host) processes(out inventory) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs { // any of them may end meanwhile
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		command := string(bytes.TrimSpace(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if h.own(command) || h.own(string(cgroup)) {
			out["process "+command]++
		}
	}
}

func (h *host) cgroups(out inventory) {
	for _, hierarchy := range hierarchies() {
		_ = filepath.WalkDir(h.cgroup(hierarchy), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out["cgroup "+path]++
			}
			return nil // it may go meanwhile
		})
	}
}

// hierarchies are where cgroups may be: of v2, and of every controller of v1.
func hierarchies() []string {
	all, _ := filepath.Glob("/sys/fs/cgroup/*")
	return append(all, "/sys/fs/cgroup")
}

// cgroup is the installation's own one.
func (h *host) cgroup(hierarchy string) string {
	return filepath.Join(hierarchy, "gondola", h.instance)
}

// mayHave takes for what was there before the installation's own cgroups, which come to a hierarchy with the first Machine that needs it.
func (h *host) mayHave(before inventory) {
	for _, hierarchy := range hierarchies() {
		before["cgroup "+h.cgroup(hierarchy)] = 1
	}
}

func (h *host) mounts(out inventory) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 && h.own(f[4]+"/") {
			out["mount "+f[4]]++
		}
	}
	return err
}

// links adds the network interfaces of the host.
func (h *host) links(out inventory) error {
	b, err := exec.Command("ip", "-n", h.netns, "-o", "link").Output()
	if err != nil {
		return fmt.Errorf("ip link: %w", err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[1] != "lo:" {
			name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
			out["link "+name]++
		}
	}
	return nil
}

// rules adds all that is in the host's nftables, but for what goes by itself: elements that a packet made and that have a timeout.
func (h *host) rules(out inventory) error {
	b, err := h.command("nft", "-j", "-s", "list", "ruleset").Output()
	if err != nil {
		return fmt.Errorf("nft list ruleset: %w", err)
	}
	var all struct{ Nftables []map[string]map[string]any }
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("nft list ruleset: %w", err)
	}
	for _, object := range all.Nftables {
		for kind, o := range object {
			elements, _ := o["elem"].([]any)
			_, fleeting := o["timeout"]
			fleeting = fleeting || strings.Contains(fmt.Sprint(o["flags"]), "dynamic") || strings.Contains(fmt.Sprint(o["flags"]), "timeout")
			delete(o, "elem")
			delete(o, "handle")
			if kind != "metainfo" {
				out["nft "+kind+" "+compact(o)]++
			}
			for _, e := range elements {
				if !fleeting {
					out[fmt.Sprintf("nft element of %v: %s", o["name"], compact(e))]++
				}
			}
		}
	}
	return nil
}

func compact(v any) string {
	b, err := json.Marshal(v) // what was JSON can be
	if err != nil {
		return err.Error()
	}
	return string(b)
}
