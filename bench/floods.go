package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
)

// tightLoop makes and deletes Pods and Machines as fast as one client can.
func (b *bench) tightLoop(ctx context.Context, n *neighbour) error {
	d := time.Duration(b.rounds(20, 4)) * time.Second
	var pods, machines atomic.Int64
	err := b.during(ctx, "a client in a tight loop, creating and deleting Pods and Machines", n, func() error {
		var loops sync.WaitGroup
		errs := make([]error, 2)
		end := time.Now().Add(d)
		loops.Go(func() {
			api := b.host.kube.CoreV1().Pods(namespace)
			for time.Now().Before(end) && errs[0] == nil {
				name := fmt.Sprintf("loop-%d", pods.Add(1))
				_, err := api.Create(ctx, newPod(name, nil, requests("5m", "16Mi"), nil), metav1.CreateOptions{})
				errs[0] = errors.Join(err, api.Delete(ctx, name, metav1.DeleteOptions{}))
			}
		})
		loops.Go(func() {
			for time.Now().Before(end) && errs[1] == nil {
				m, err := b.create(ctx, "gvisor")
				if errors.Is(err, gondola.ErrCapacity) { // a refusal is an answer
					_ = wait(ctx, 10*time.Millisecond)
					continue
				}
				if err == nil {
					err = b.host.api.Destroy(ctx, m.Ref(), true)
				}
				machines.Add(1)
				errs[1] = err
			}
		})
		loops.Wait()
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.onlyNeighbour(ctx); err != nil {
		return err
	}
	b.add(fmt.Sprintf("tight loop of %.0f s: made and deleted; then until nothing of it is left", d.Seconds()),
		fmt.Sprintf("%d Pods, %d Machines; %s", pods.Load(), machines.Load(), seconds(time.Since(began))), "")
	return nil
}

// onlyNeighbour waits until nothing is there but the neighbour.
func (b *bench) onlyNeighbour(ctx context.Context) error {
	if err := b.untilPods(ctx, 2*time.Minute, "gone", func(pods []corev1.Pod) bool { return len(pods) == 1 }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		left, err := b.podMachines(ctx)
		others, err2 := b.host.api.List(ctx, appName, gondola.ListFilter{})
		if err = errors.Join(err, err2); err == nil && len(left) == 1 && len(others) == 0 {
			return nil
		}
		if ended := wait(ctx, 50*time.Millisecond); ended != nil {
			return fmt.Errorf("%d and %d Machines are left: %w", len(left), len(others), errors.Join(ended, err))
		}
	}
}

// crashLoops runs a Deployment whose containers end at once: the waits before restarts must grow.
func (b *bench) crashLoops(ctx context.Context, n *neighbour) error {
	replicas := int32(b.rounds(50, 4))
	labels := map[string]string{"bench": "overload", "app": "crash"}
	pod := newPod("", []string{"false"}, requests("5m", "32Mi"), nil)
	pod.Labels, pod.Spec.RestartPolicy = labels, corev1.RestartPolicyAlways
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "crash"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}}}
	api := b.host.kube.AppsV1().Deployments(namespace)
	var most int32
	err := b.during(ctx, fmt.Sprintf("a Deployment of %d whose containers end at once", replicas), n, func() error {
		if _, err := api.Create(ctx, d, metav1.CreateOptions{}); err != nil {
			return err
		}
		return b.untilPods(ctx, 2*time.Minute, "waiting 20 s or more for their next restart", func(pods []corev1.Pod) bool {
			later := 0
			for _, p := range pods {
				for _, c := range p.Status.ContainerStatuses {
					most = max(most, c.RestartCount)
					if w := c.State.Waiting; w != nil && w.Reason == "CrashLoopBackOff" && !strings.Contains(w.Message, "back-off 10s ") {
						later++
					}
				}
			}
			return later >= int(replicas)*9/10
		})
	})
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("Deployment of %d whose containers end at once: restarts until nine of ten wait 20 s or longer", replicas), fmt.Sprintf("at most %d each", most), "")
	if most > 4 {
		return fmt.Errorf("a container was restarted %d times before it waited 20 s: back-off does not grow", most)
	}
	background := metav1.DeletePropagationBackground
	if err := api.Delete(ctx, "crash", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		return err
	}
	return b.onlyNeighbour(ctx)
}

// floodScript writes lines of a hundred bytes as fast as it can, 64 MB by each program that it starts.
const floodScript = "l=$(printf '%099d' 0); for i in $(seq 1 10000); do echo $l; done > /tmp/lines; f=/tmp/lines; " +
	"f=\"$f $f $f $f $f $f $f $f\"; while true; do cat $f $f $f $f $f $f $f $f; done"

// inFile is how many bytes the file of a log takes for each that a flood wrote: a line carries its time and stream.
const inFile = (100 + float64(len("2006-01-02T15:04:05.000000000Z stdout F "))) / 100

// logFlood runs a Pod that writes as fast as it can.
func (b *bench) logFlood(ctx context.Context, n *neighbour) error {
	pod, err := b.run(ctx, "flood", shell(floodScript), requests("10m", "32Mi"), nil)
	if err != nil {
		return err
	}
	m, group, err := b.machineOf(ctx, pod)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.host.data, "machines", string(m.ID), "logs")
	if err := b.untilLogged(ctx, "flood"); err != nil { // it prepares its lines first
		return err
	}
	before, err := b.floodOf(m.ID, group)
	if err != nil {
		return err
	}
	began := time.Now()
	var largest int64
	var pilot float64
	var tails times
	err = b.during(ctx, "a Pod that logs as fast as it can, 100 MB/s and more if it may", n, func() error {
		for end := began.Add(time.Duration(b.rounds(15, 4)) * time.Second); time.Now().Before(end); {
			largest = max(largest, sizeOf(dir))
			parts, err := group.memory()
			if err != nil {
				return err
			}
			pilot = max(pilot, parts["pilot"].own)
			asked, lines := time.Now(), int64(3)
			_, err = b.host.kube.CoreV1().Pods(namespace).GetLogs("flood", &corev1.PodLogOptions{TailLines: &lines}).DoRaw(ctx)
			if err != nil {
				return fmt.Errorf("logs --tail: %w", err)
			}
			tails = append(tails, time.Since(asked))
			if err := wait(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	after, err := b.floodOf(m.ID, group)
	if err != nil {
		return err
	}
	window := time.Since(began)
	rate := float64(after.written-before.written) / inFile / window.Seconds()
	b.add("log flood: the container wrote; CPU of its sandbox and of its pilot; log files at most; memory of its pilot at most; `kubectl logs --tail=3`, p50 / p99",
		fmt.Sprintf("%.0f MB/s; %s and %s; %s; %s; %s", rate/1e6, share(after.sandbox-before.sandbox, window), share(after.pilot-before.pilot, window),
			mebibytes(float64(largest)), mebibytes(pilot), tails), "")
	if most := int64(31 << 20); largest > most { // three files of 10 MiB and what a rotation is late
		return fmt.Errorf("log files took %d bytes, want at most %d", largest, most)
	}
	return b.end(ctx, "flood")
}

// untilLogged waits for the first line of a Pod.
func (b *bench) untilLogged(ctx context.Context, pod string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	most := int64(1)
	for {
		text, err := b.host.kube.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{LimitBytes: &most}).DoRaw(ctx)
		if len(text) > 0 {
			return nil
		}
		if ended := wait(ctx, 50*time.Millisecond); ended != nil {
			return fmt.Errorf("pod %s logs nothing: %w", pod, errors.Join(ended, err))
		}
	}
}

// flooded is what a flood has come to.
type flooded struct {
	written        int64 // to the files of the log
	sandbox, pilot time.Duration
}

func (b *bench) floodOf(id gondola.MachineID, group cgroup) (f flooded, err error) {
	if f.written, err = b.writtenBy(id); err != nil {
		return f, err
	}
	if f.sandbox, err = (group + "/sandbox").cpu(); err != nil {
		return f, err
	}
	f.pilot, err = (group + "/pilot").cpu()
	return f, err
}

// writtenBy is how many bytes the pilot of a Machine has written to its files.
func (b *bench) writtenBy(id gondola.MachineID) (int64, error) {
	record, err := os.ReadFile(filepath.Join(b.host.data, "machines", string(id), "pilot.json"))
	if err != nil {
		return 0, err
	}
	var process struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(record, &process); err != nil {
		return 0, err
	}
	counts, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", process.PID))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(counts)) {
		if n, ok := strings.CutPrefix(line, "wchar: "); ok {
			return strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	return 0, errors.New("the kernel does not count what processes write")
}

func sizeOf(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil // what is rotated away meanwhile counts no more
	})
	return sum
}

// tooMany makes a thousand Pods on a host that has room for some forty.
func (b *bench) tooMany(ctx context.Context, n *neighbour) error {
	count := b.rounds(1000, 60)
	before, err := memoryOf(b.host.up.Process.Pid)
	if err != nil {
		return err
	}
	running, began := 0, time.Now()
	var full, gone time.Duration
	err = b.during(ctx, fmt.Sprintf("%d Pods at once, of which few fit", count), n, func() error {
		if err := b.createMany(ctx, count); err != nil {
			return err
		}
		err := b.untilPods(ctx, 3*time.Minute, "running or refused in the market's words", func(pods []corev1.Pod) bool {
			running = 0
			for _, p := range pods {
				if p.Status.Phase == corev1.PodRunning {
					running++
				} else if !refused(&p) {
					return false
				}
			}
			return len(pods) == count+1 // none is lost
		})
		full = time.Since(began)
		return err
	})
	if err != nil {
		return err
	}
	loaded, err := memoryOf(b.host.up.Process.Pid)
	if err != nil {
		return err
	}
	began = time.Now()
	err = b.during(ctx, "their deletion", n, func() error {
		if err := b.deleteMany(ctx); err != nil {
			return err
		}
		defer func() { gone = time.Since(began) }()
		return b.onlyNeighbour(ctx)
	})
	if err != nil {
		return err
	}
	after, err := memoryOf(b.host.up.Process.Pid)
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("%d Pods at once: until each runs or waits with the market's refusal; of them run; until all are gone again", count),
		fmt.Sprintf("%s; %d; %s", seconds(full), running-1, seconds(gone)), "")
	b.add(fmt.Sprintf("%d Pods at once: the daemon's own memory before / with them / after", count),
		mebibytes(before.own)+" / "+mebibytes(loaded.own)+" / "+mebibytes(after.own), "")
	return nil
}

// createMany makes Pods by eight requests at a time.
func (b *bench) createMany(ctx context.Context, count int) error {
	errs := make([]error, connections)
	var makers sync.WaitGroup
	for i := range connections {
		makers.Go(func() {
			for j := i; j < count && errs[i] == nil; j += connections {
				pod := newPod(fmt.Sprintf("many-%d", j), nil, requests("5m", "64Mi"), nil)
				pod.Labels["many"] = "yes"
				_, errs[i] = b.host.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
			}
		})
	}
	makers.Wait()
	return errors.Join(errs...)
}

// deleteMany deletes them as one collection. After a minute the API server ends the request, in one way or another, whatever is left.
func (b *bench) deleteMany(ctx context.Context) error {
	for {
		asked := time.Now()
		err := b.host.kube.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "bench=overload,many=yes"})
		if err == nil || time.Since(asked) < time.Minute {
			return err
		}
	}
}

// refused says whether a Pod waits, and is told by the market why.
func refused(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodPending && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "free")
	})
}
