// Start measures how long a Machine takes from its launch to the first byte of its output, on the gVisor driver (pilot, sandbox, container)
// beside a bare "runsc run" of the same program, one after the other in one run, and what memory one idle Machine holds. Root only.
//
//	go run ./bench/start [-n 20]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gondola"
	"gondola/internal/driver/gvisor"
	"gondola/internal/pilot"
)

func main() {
	n := flag.Int("n", 20, "starts of each kind")
	flag.Parse()
	if err := bench(*n); err != nil {
		fmt.Fprintln(os.Stderr, "bench/start:", err)
		os.Exit(1)
	}
}

func bench(n int) (err error) {
	dir, err := os.MkdirTemp("", "gondola-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for out, pkg := range map[string]string{"gondola-pilot": "gondola/cmd/gondola-pilot", "image/program": "gondola/internal/driver/drivertest/program/cmd"} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	b := &bencher{dir: dir, driver: gvisor.New(gvisor.Config{PilotPath: filepath.Join(dir, "gondola-pilot")})}
	var ours, bare []time.Duration
	var memory, cpu string
	for i := range n {
		d, m, c, err := b.machine()
		if err != nil {
			return fmt.Errorf("machine: %w", err)
		}
		memory, cpu = m, c
		ours = append(ours, d)
		if d, err = b.runsc(i); err != nil {
			return fmt.Errorf("runsc: %w", err)
		}
		bare = append(bare, d)
	}
	fmt.Printf("%-28s %8s %8s %8s\n", "launch to first byte, ms", "min", "p50", "p99")
	report("gondola (gVisor driver)", ours)
	report("bare runsc run", bare)
	fmt.Println("CPU time of the last start:", cpu)
	fmt.Println("memory of one idle Machine:", memory)
	return nil
}

func report(name string, times []time.Duration) {
	slices.Sort(times)
	ms := func(i int) float64 { return float64(times[i].Microseconds()) / 1000 }
	fmt.Printf("%-28s %8.1f %8.1f %8.1f\n", name, ms(0), ms(len(times)/2), ms((len(times)-1)*99/100))
}

type bencher struct {
	dir    string
	driver *gvisor.Driver
}

// netns makes a network namespace, which is not part of what is measured.
func netns(name string) (path string, remove func(), err error) {
	remove = func() { exec.Command("ip", "netns", "del", name).Run() }
	for _, args := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			remove()
			return "", nil, fmt.Errorf("ip %s: %s", strings.Join(args, " "), out)
		}
	}
	return "/run/netns/" + name, remove, nil
}

// machine launches a Machine and waits for its first byte.
func (b *bencher) machine() (took time.Duration, memory, cpu string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	id := gondola.NewMachineID()
	ns, remove, err := netns("bench-" + string(id))
	if err != nil {
		return 0, "", "", err
	}
	defer remove()
	run := filepath.Join("/run/gondola-bench", string(id))
	if err := os.MkdirAll(run, 0o700); err != nil {
		return 0, "", "", err
	}
	defer os.RemoveAll("/run/gondola-bench")
	spec := pilot.Spec{
		Machine: id, Instance: "bench", Version: gondola.NewVersion(time.Now()), Dir: filepath.Join(b.dir, string(id)), RunDir: run, Socket: run + ".sock",
		NetNS: ns, Cgroup: "gondola-bench/" + string(id), Hostname: "bench",
		Containers: []pilot.Container{{Name: "main", Image: "program", Tree: filepath.Join(b.dir, "image"), Args: []string{"/program", "print", "hello", ";", "run"},
			Config: gondola.Container{Name: "main"}}},
	}
	defer func() {
		err = errors.Join(err, b.driver.Kill(context.Background(), spec))
		for _, pattern := range []string{"/sys/fs/cgroup/gondola-bench", "/sys/fs/cgroup/*/gondola-bench"} {
			dirs, _ := filepath.Glob(pattern)
			for _, d := range dirs {
				os.Remove(d)
			}
		}
	}()
	begin := time.Now()
	if _, err := b.driver.Launch(ctx, spec, nil); err != nil {
		return 0, "", "", err
	}
	log := filepath.Join(spec.Dir, "logs")
	for {
		if written(log) {
			break
		}
		if ctx.Err() != nil {
			return 0, "", "", ctx.Err()
		}
		time.Sleep(200 * time.Microsecond)
	}
	took = time.Since(begin)
	return took, memoryOf(spec.Cgroup), cpuOf(spec.Cgroup), nil
}

// written says whether there is a byte in any file below dir.
func written(dir string) bool {
	found := false
	filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil && info.Size() > 0 {
				found = true
			}
		}
		return nil
	})
	return found
}

// cpuOf returns the CPU time of a Machine's pilot (with the runsc commands that it ran) and of its sandbox.
func cpuOf(cgroup string) string {
	var out []string
	for _, part := range []string{"pilot", "sandbox"} {
		if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/cpuacct", cgroup, part, "cpuacct.usage")); err == nil { // v1, ns
			ns, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			out = append(out, fmt.Sprintf("%s %d ms", part, ns/1e6))
		} else if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", cgroup, part, "cpu.stat")); err == nil { // v2
			usage, _, _ := strings.Cut(strings.TrimPrefix(string(b), "usage_usec "), "\n")
			us, _ := strconv.Atoi(usage)
			out = append(out, fmt.Sprintf("%s %d ms", part, us/1e3))
		}
	}
	return strings.Join(out, ", ")
}

// memoryOf sums the memory of a cgroup's processes by name.
func memoryOf(cgroup string) string {
	type sum struct{ processes, rss, pss int }
	sums := map[string]sum{}
	seen := map[string]bool{}
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroup + "/*/cgroup.procs", "/sys/fs/cgroup/*/" + cgroup + "/*/cgroup.procs"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			b, _ := os.ReadFile(f)
			for _, pid := range strings.Fields(string(b)) {
				if seen[pid] {
					continue
				}
				seen[pid] = true
				cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
				name, _, _ := strings.Cut(string(cmdline), "\x00")
				if name = filepath.Base(name); name == "." {
					name = "systrap stubs" // their memory is the programs'
				}
				rollup, _ := os.ReadFile("/proc/" + pid + "/smaps_rollup")
				s := sums[name]
				s.processes++
				for line := range strings.Lines(string(rollup)) {
					if f := strings.Fields(line); len(f) > 1 {
						kb, _ := strconv.Atoi(f[1])
						switch f[0] {
						case "Rss:":
							s.rss += kb
						case "Pss:":
							s.pss += kb
						}
					}
				}
				sums[name] = s
			}
		}
	}
	var out []string
	for name, s := range sums {
		out = append(out, fmt.Sprintf("%d %s: RSS %d MB, PSS %d MB", s.processes, name, s.rss>>10, s.pss>>10))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// runsc runs the same program as a container of its own, with nothing of ours around it.
func (b *bencher) runsc(i int) (time.Duration, error) {
	name := "bench-bare-" + strconv.Itoa(i)
	ns, remove, err := netns(name)
	if err != nil {
		return 0, err
	}
	defer remove()
	bundle := filepath.Join(b.dir, name)
	spec := map[string]any{
		"ociVersion": "1.1.0", "root": map[string]any{"path": filepath.Join(b.dir, "image"), "readonly": true}, "hostname": "bench",
		"process": map[string]any{"args": []string{"/program", "print", "hello", ";", "run"}, "cwd": "/", "env": []string{"PATH=/"}},
		"linux": map[string]any{"cgroupsPath": "/gondola-bench-bare", "namespaces": []any{map[string]string{"type": "pid"},
			map[string]string{"type": "network", "path": ns}}},
	}
	config, err := json.Marshal(spec)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	flags := []string{"runsc", "--root=" + filepath.Join(b.dir, "bare"), "--overlay2=none", "--gofer-network-namespace=" + ns}
	pilotPath := filepath.Join(b.dir, "gondola-pilot")
	cmd := exec.Command(pilotPath, append(flags, "run", "--detach", "--bundle="+bundle, name)...)
	cmd.Stdout, cmd.Stderr = w, w
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	w.Close()
	buf := make([]byte, 256)
	got, err := r.Read(buf)
	took := time.Since(begin)
	cmd.Wait()
	exec.Command(pilotPath, append(flags, "delete", "--force", name)...).Run()
	if err != nil && err != io.EOF || !strings.HasPrefix(string(buf[:got]), "hello") {
		return 0, fmt.Errorf("got %q, %v", buf[:got], err)
	}
	return took, nil
}
