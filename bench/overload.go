package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
)

const (
	overloadSection = "overload" // measured only when it is named
	machinesMiB     = 3200       // what Machines may have together in it, so that hogs do no harm to what else the host does
)

// overload puts one kind of too much after the other on the host, and looks how requests of others fare meanwhile and whether limits hold.
func (b *bench) overload(ctx context.Context) error {
	if err := b.restartBounded(ctx); err != nil {
		return err
	}
	if err := b.ensureApp(ctx); err != nil {
		return err
	}
	if _, err := b.run(ctx, "neighbour", nil, requests("200m", "32Mi"), nil); err != nil {
		return err
	}
	n, err := b.newNeighbour(ctx)
	if err != nil {
		return err
	}
	defer n.stop()
	if err := b.during(ctx, "nothing else", n, func() error { return wait(ctx, time.Duration(b.rounds(8, 3))*time.Second) }); err != nil {
		return err
	}
	for _, part := range []func(context.Context, *neighbour) error{b.tightLoop, b.crashLoops, b.logFlood, b.forkBomb, b.memoryHogs, b.cpuHogs, b.tooMany} {
		if err := part(ctx, n); err != nil {
			return err
		}
	}
	pod, err := b.host.kube.CoreV1().Pods(namespace).Get(ctx, "neighbour", metav1.GetOptions{})
	if err != nil {
		return err
	}
	b.add("the neighbour through all of this", fmt.Sprintf("%d restarts, %d requests failed of %d", pod.Status.ContainerStatuses[0].RestartCount, n.failed(), n.count()), "")
	return b.end(ctx, "neighbour")
}

// restartBounded starts the platform anew with little memory for Machines.
func (b *bench) restartBounded(ctx context.Context) error {
	total, err := meminfo("MemTotal")
	if err != nil {
		return err
	}
	return b.restartWith(ctx, fmt.Sprintf("reserve: {memoryMB: %d}\n", int(total)>>20-machinesMiB))
}

func requests(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// newPod describes a Pod of the demo image.
func newPod(name string, command []string, requests, limits corev1.ResourceList) *corev1.Pod {
	none := int64(0)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bench": "overload"}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &none, RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{Name: "main", Image: helloImage, Command: command,
			Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}}}}
}

// run makes a Pod and waits until it runs.
func (b *bench) run(ctx context.Context, name string, command []string, requests, limits corev1.ResourceList) (*corev1.Pod, error) {
	if _, err := b.host.kube.CoreV1().Pods(namespace).Create(ctx, newPod(name, command, requests, limits), metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	return b.untilPod(ctx, name, time.Minute, func(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodPending && p.Status.PodIP != "" })
}

// untilPod asks for a Pod until it is as wanted.
func (b *bench) untilPod(ctx context.Context, name string, patience time.Duration, wanted func(*corev1.Pod) bool) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		pod, err := b.host.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && wanted(pod) {
			return pod, nil
		}
		if ended := wait(ctx, 50*time.Millisecond); ended != nil {
			return nil, fmt.Errorf("pod %s: %w (%w); its status: %v", name, ended, err, pod.Status)
		}
	}
}

// end deletes a Pod and waits until it is gone, the way a person would who wants to be rid of it.
func (b *bench) end(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := b.host.kube.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return b.untilPods(ctx, time.Minute, "gone", func(pods []corev1.Pod) bool {
		for _, p := range pods {
			for _, name := range names {
				if p.Name == name {
					return false
				}
			}
		}
		return true
	})
}

// untilPods lists the Pods until they are as wanted.
func (b *bench) untilPods(ctx context.Context, patience time.Duration, what string, wanted func([]corev1.Pod) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		list, err := b.host.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "bench=overload"})
		if err == nil && wanted(list.Items) {
			return nil
		}
		pause := 200 * time.Millisecond
		if err == nil && len(list.Items) > 100 { // looking at a thousand, again and again, would be the load that is measured
			pause = 2 * time.Second
		}
		if ended := wait(ctx, pause); ended != nil {
			return fmt.Errorf("%d Pods are not %s: %w", len(list.Items), what, errors.Join(ended, err))
		}
	}
}

// machineOf is the Machine of a Pod, and its cgroup.
func (b *bench) machineOf(ctx context.Context, pod *corev1.Pod) (gondola.Machine, cgroup, error) {
	machines, err := b.podMachines(ctx)
	if err != nil {
		return gondola.Machine{}, "", err
	}
	for _, m := range machines {
		if strings.HasSuffix(m.Name, string(pod.UID)) {
			groups, err := b.groups([]gondola.Machine{m})
			if err != nil {
				return m, "", err
			}
			return m, groups[0], nil
		}
	}
	return gondola.Machine{}, "", fmt.Errorf("pod %s has no Machine", pod.Name)
}

// during does something and adds how requests fare meanwhile: one after the other of each kind, 20 ms apart.
func (b *bench) during(ctx context.Context, what string, n *neighbour, do func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pods := b.host.kube.CoreV1().Pods(namespace)
	kinds := []struct {
		name string
		ask  func(context.Context) error
	}{
		{"Kubernetes get", func(ctx context.Context) error { _, err := pods.Get(ctx, "neighbour", metav1.GetOptions{}); return err }},
		{"Kubernetes list of 50", func(ctx context.Context) error { _, err := pods.List(ctx, metav1.ListOptions{Limit: 50}); return err }},
		{"Machines get", func(ctx context.Context) error { _, err := b.host.api.Get(ctx, n.machine); return err }},
		{"Machines list", func(ctx context.Context) error { _, err := b.podMachines(ctx); return err }},
		{"neighbour's HTTP", n.ask},
	}
	took, failed := make([]times, len(kinds)), make([]int, len(kinds))
	var probes sync.WaitGroup
	for i, k := range kinds {
		probes.Go(func() {
			for ctx.Err() == nil {
				asking, done := context.WithTimeout(ctx, 10*time.Second)
				began := time.Now()
				err := k.ask(asking)
				done()
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
					failed[i]++
				}
				took[i] = append(took[i], time.Since(began))
				_ = wait(ctx, 20*time.Millisecond)
			}
		})
	}
	err := do()
	cancel()
	probes.Wait()
	header, line := []string{"p50 / p99 of requests during"}, []string{what}
	for i, k := range kinds {
		if len(took[i]) == 0 {
			return errors.Join(err, fmt.Errorf("%s: no %s was answered during it", what, k.name))
		}
		text := took[i].String()
		if failed[i] > 0 {
			text += fmt.Sprintf(" (%d of %d failed)", failed[i], len(took[i]))
		}
		header, line = append(header, k.name), append(line, text)
	}
	if b.requests == nil {
		b.requests = [][]string{header}
	}
	b.requests = append(b.requests, line)
	fmt.Fprintf(os.Stderr, "  %s\n", strings.Join(line, "; "))
	return err
}
