package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func shell(script string) []string { return []string{"sh", "-c", script} }

const (
	bombScript = "echo 'while true; do sh /tmp/bomb & done' > /tmp/bomb; sh /tmp/bomb"
	growScript = "x=0123456789abcdef; while true; do x=$x$x; done" // twice the memory each time
	spinScript = "while true; do :; done"
)

// forkBomb runs a Pod that makes processes which make processes.
func (b *bench) forkBomb(ctx context.Context, n *neighbour) error {
	pod, err := b.run(ctx, "bomb", shell(bombScript), requests("10m", "32Mi"), nil)
	if err != nil {
		return err
	}
	_, group, err := b.machineOf(ctx, pod)
	if err != nil {
		return err
	}
	most, limit := 0, group.processes("max")
	if limit == 0 {
		return fmt.Errorf("the sandbox in %s has no limit of processes", group)
	}
	err = b.during(ctx, "a fork bomb", n, func() error {
		for end := time.Now().Add(time.Duration(b.rounds(12, 4)) * time.Second); time.Now().Before(end); {
			most = max(most, group.processes("current"))
			if err := wait(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.end(ctx, "bomb"); err != nil {
		return err
	}
	b.add("fork bomb: processes and threads of the host that it has at most, of those that it may have; delete → gone",
		fmt.Sprintf("%d of %d; %s", most, limit, seconds(time.Since(began))), "")
	if most > limit {
		return fmt.Errorf("a fork bomb has %d processes, and may have %d", most, limit)
	}
	return nil
}

// processes is how many processes and threads are in the sandbox's group ("current") or may be ("max", 0 for no limit).
func (c cgroup) processes(which string) int {
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		file := filepath.Join(root, string(c), "sandbox", "pids."+which)
		if b, err := os.ReadFile(file); err == nil {
			n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			return n
		}
	}
	return 0
}

// memoryHogs runs Pods that take all the memory they get.
func (b *bench) memoryHogs(ctx context.Context, n *neighbour) error {
	for _, hog := range []struct {
		what   string
		limits corev1.ResourceList
	}{{"a memory hog with a limit of 256 MiB", corev1.ResourceList{corev1.ResourceMemory: requests("1", "256Mi")[corev1.ResourceMemory]}},
		{"a memory hog without a limit", nil}} {
		var free float64
		var told string
		began := time.Now()
		err := b.during(ctx, hog.what, n, func() error {
			if _, err := b.host.kube.CoreV1().Pods(namespace).Create(ctx, newPod("hog", shell(growScript), requests("10m", "32Mi"), hog.limits), metav1.CreateOptions{}); err != nil {
				return err
			}
			_, err := b.untilPod(ctx, "hog", 3*time.Minute, func(p *corev1.Pod) bool {
				if now, err := meminfo("MemAvailable"); err == nil && (free == 0 || now < free) {
					free = now
				}
				told = p.Status.Reason
				for _, c := range p.Status.ContainerStatuses {
					if c.State.Terminated != nil {
						told = c.State.Terminated.Reason
					}
				}
				return p.Status.Phase == corev1.PodFailed
			})
			return err
		})
		if err != nil {
			return err
		}
		b.add(hog.what+": create → ended; told as; memory of the host available at least", seconds(time.Since(began))+"; "+told+"; "+mebibytes(free), "")
		if told != "OOMKilled" && told != "Evicted" {
			return fmt.Errorf("%s ended as %q, want OOMKilled", hog.what, told)
		}
		if err := b.end(ctx, "hog"); err != nil {
			return err
		}
	}
	return nil
}

// cpuHogs runs Pods that take all the CPU they get: one with a limit alone, then more than there are cores beside one that asked for half a core.
func (b *bench) cpuHogs(ctx context.Context, n *neighbour) error {
	window := time.Duration(b.rounds(8, 3)) * time.Second
	if _, err := b.run(ctx, "limited", shell(spinScript), requests("10m", "32Mi"), corev1.ResourceList{corev1.ResourceCPU: requests("200m", "1")[corev1.ResourceCPU]}); err != nil {
		return err
	}
	var got float64
	var err error
	err = b.during(ctx, "a CPU hog with a limit of 200m", n, func() error { got, err = b.cores(ctx, "limited", window); return err })
	if err != nil {
		return err
	}
	b.add("CPU hog with a limit of 200m: has", fmt.Sprintf("%.0fm", 1000*got), "")
	if got > 0.25 {
		return fmt.Errorf("a limit of 200m lets %.0fm through", 1000*got)
	}
	names := []string{"limited", "asked"}
	if _, err := b.run(ctx, "asked", shell(spinScript), requests("500m", "32Mi"), nil); err != nil {
		return err
	}
	for i := range 4 {
		names = append(names, fmt.Sprintf("spin-%d", i))
		if _, err := b.run(ctx, names[len(names)-1], shell(spinScript), corev1.ResourceList{}, nil); err != nil {
			return err
		}
	}
	err = b.during(ctx, "4 CPU hogs without a limit, and one that asked for 500m", n, func() error { got, err = b.cores(ctx, "asked", window); return err })
	if err != nil {
		return err
	}
	b.add("Pod that asked for 500m and wants all, beside 4 hogs that asked for nothing: has", fmt.Sprintf("%.0fm", 1000*got), "")
	return b.end(ctx, names...)
}

// cores is how much CPU the sandbox of a Pod uses.
func (b *bench) cores(ctx context.Context, name string, window time.Duration) (float64, error) {
	pod, err := b.host.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	_, group, err := b.machineOf(ctx, pod)
	if err != nil {
		return 0, err
	}
	sandbox := group + "/sandbox"
	before, err := sandbox.cpu()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := wait(ctx, window); err != nil {
		return 0, err
	}
	after, err := sandbox.cpu()
	return (after - before).Seconds() / time.Since(began).Seconds(), err
}
