package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"gondola"
)

const (
	namespace   = metav1.NamespaceDefault
	clusterName = "main" // the default of gondola up
)

func podLabels() map[string]string { return map[string]string{"app": "bench"} }

// podSpec is a Pod of the demo image that asks for little.
func podSpec() corev1.PodSpec {
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("16Mi")}
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "hello", Image: helloImage, Resources: corev1.ResourceRequirements{Requests: small}}}}
}

// pods measures create → Running of one Pod after the other.
func (b *bench) pods(ctx context.Context) error {
	w, err := b.watchPods(ctx)
	if err != nil {
		return err
	}
	defer w.Stop()
	n := b.rounds(40, 3)
	var running, gone times
	for i := range n {
		name := fmt.Sprintf("bench-%d", i)
		began := time.Now()
		if err := b.createPod(ctx, name); err != nil {
			return err
		}
		if err := w.until(ctx, func() bool { return w.running() == 1 }); err != nil {
			return err
		}
		running = append(running, time.Since(began))
		began = time.Now()
		if err := b.host.kube.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := w.until(ctx, func() bool { return len(w.phases) == 0 }); err != nil {
			return err
		}
		gone = append(gone, time.Since(began))
	}
	b.add(fmt.Sprintf("Pod: create → Running on a watch, p50 / p99 of %d one after the other", n), running.String(), "")
	b.add(fmt.Sprintf("Pod: delete → gone from a watch, p50 / p99 of %d", n), gone.String(), "")
	return nil
}

func (b *bench) createPod(ctx context.Context, name string) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: podLabels()}, Spec: podSpec()}
	_, err := b.host.kube.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// burst measures a Deployment of many: until all run, and until all are gone.
func (b *bench) burst(ctx context.Context) error {
	w, err := b.watchPods(ctx)
	if err != nil {
		return err
	}
	defer w.Stop()
	n := b.rounds(100, 5)
	replicas := int32(n)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: podLabels()},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: podLabels()}, Spec: podSpec()}}}
	deployments := b.host.kube.AppsV1().Deployments(namespace)
	used, err := cpuOf(b.host.up.Process.Pid)
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := deployments.Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := w.until(ctx, func() bool { return w.running() == n }); err != nil {
		return err
	}
	b.add(fmt.Sprintf("Deployment of %d Pods: create → all Running on a watch", n), seconds(time.Since(began)), "")
	if err := b.addBurstCPU(ctx, used, n); err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	began = time.Now()
	if err := deployments.Delete(ctx, "bench", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		return err
	}
	if err := w.until(ctx, func() bool { return len(w.phases) == 0 }); err != nil {
		return err
	}
	pods := time.Since(began)
	if err := b.noMachines(ctx); err != nil {
		return err
	}
	b.add(fmt.Sprintf("Deployment of %d Pods: delete → no Pod on a watch; → no Machine in the API", n), seconds(pods)+"; "+seconds(time.Since(began)), "")
	return nil
}

// addBurstCPU tells what the Pods have cost in CPU time, which does not depend on what else the host does.
func (b *bench) addBurstCPU(ctx context.Context, before time.Duration, n int) error {
	after, err := cpuOf(b.host.up.Process.Pid)
	if err != nil {
		return err
	}
	machines, err := b.podMachines(ctx)
	if err != nil {
		return err
	}
	groups, err := b.groups(machines)
	if err != nil {
		return err
	}
	parts := map[string]time.Duration{}
	for _, g := range groups {
		for _, part := range []string{"pilot", "sandbox"} {
			d, err := (g + cgroup("/"+part)).cpu()
			if err != nil {
				return err
			}
			parts[part] += d
		}
	}
	each := func(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d.Microseconds())/1000/float64(n)) }
	b.add(fmt.Sprintf("Deployment of %d Pods: CPU time per Pod until all run", n),
		fmt.Sprintf("daemon with Kubernetes %s, pilot with runsc's commands %s, sandbox %s", each(after-before), each(parts["pilot"]), each(parts["sandbox"])), "")
	return nil
}

// podMachines are the Machines of the namespace.
func (b *bench) podMachines(ctx context.Context) ([]gondola.Machine, error) {
	return b.host.api.List(ctx, gondola.AppOfNamespace(clusterName, namespace), gondola.ListFilter{})
}

// noMachines waits until the Machines of the namespace are gone.
func (b *bench) noMachines(ctx context.Context) error {
	for {
		left, err := b.podMachines(ctx)
		if err != nil || len(left) == 0 {
			return err
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%w: %d Machines are left", err, len(left))
		}
	}
}

// podWatch follows the Pods of this program.
type podWatch struct {
	watch.Interface
	phases map[string]corev1.PodPhase // name → phase
}

func (b *bench) watchPods(ctx context.Context) (*podWatch, error) {
	o := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: podLabels()})}
	list, err := b.host.kube.CoreV1().Pods(namespace).List(ctx, o)
	if err != nil {
		return nil, err
	}
	if len(list.Items) > 0 {
		return nil, fmt.Errorf("%d Pods are there already", len(list.Items))
	}
	selected := func(ctx context.Context, at metav1.ListOptions) (watch.Interface, error) {
		at.LabelSelector = o.LabelSelector
		return b.host.kube.CoreV1().Pods(namespace).Watch(ctx, at)
	}
	// The API server ends the watches of clients that a busy host keeps from reading; one goes on then where it was.
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: selected})
	return &podWatch{w, map[string]corev1.PodPhase{}}, err
}

// until reads events until reached, two minutes at most.
func (w *podWatch) until(ctx context.Context, reached func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for !reached() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d Pods, %d Running", ctx.Err(), len(w.phases), w.running())
		case e, ok := <-w.ResultChan():
			if !ok {
				return errors.New("the watch of Pods has ended")
			}
			pod, ok := e.Object.(*corev1.Pod)
			switch {
			case !ok:
				return fmt.Errorf("the watch of Pods says %v", e)
			case e.Type == watch.Deleted:
				delete(w.phases, pod.Name)
			case pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil: // told to end, it may end as it likes
				return fmt.Errorf("pod %s failed: %s %s %v", pod.Name, pod.Status.Reason, pod.Status.Message, pod.Status.ContainerStatuses)
			default:
				w.phases[pod.Name] = pod.Status.Phase
			}
		}
	}
	return nil
}

// running is how many Pods run.
func (w *podWatch) running() int {
	n := 0
	for _, p := range w.phases {
		if p == corev1.PodRunning {
			n++
		}
	}
	return n
}
