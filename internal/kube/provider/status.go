package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
	"gondola/internal/kube/translate"
)

// observed is the status that the Pod should have.
func (e *engine) observed(n *node, pod *corev1.Pod, m *gondola.Machine, o translate.Observed) corev1.PodStatus {
	o.Now = time.Now()
	o.HostIPs, o.Gateway = n.Addresses, n.Gateway != ""
	return translate.PodStatus(pod, m, o)
}

// report brings the Pod's status in line with what is observed.
func (e *engine) report(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, o translate.Observed) error {
	status := e.observed(n, pod, m, o)
	if equality.Semantic.DeepEqual(pod.Status, status) {
		return nil
	}
	if n.library != nil {
		e.renew(n.library.send(pod, status))
		e.toldOf(n, pod, status)
		return nil
	}
	updated, err := writeStatus(ctx, n, pod, status)
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil // gone, or another Pod of this name by now: the informer tells
	case err != nil:
		return fmt.Errorf("report status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	e.renew(updated)
	e.toldOf(n, pod, status)
	return nil
}

// toldOf notes that the Pod's status was told.
func (e *engine) toldOf(n *node, pod *corev1.Pod, status corev1.PodStatus) {
	e.mu.Lock()
	t, ok := e.pods[pod.UID]
	e.mu.Unlock()
	if ok {
		e.told(n, &t.work, pod.Status.Phase, status.Phase)
	}
}

// calm is how long news that nobody waits for may be kept back.
const calm = time.Second

// reportCalmly reports what others wait for at once, and details, such as a Pod's address while it starts, together with it or a moment
// later: a Pod that starts would otherwise be written twice as often, at 7 ms of the API server's time. So is a Pod that is not ready because its
// image is being changed: as with a kubelet, it mostly is again before anybody is told. It returns when to look again; zero: all is told.
func (e *engine) reportCalmly(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	status := e.observed(n, pod, m, w.seen())
	news := urgent(pod.Status, status)
	if (!news || w.renewed && between(pod.Status, status)) && !equality.Semantic.DeepEqual(pod.Status, status) {
		if w.detailsAt.IsZero() {
			w.detailsAt = time.Now()
		}
		if left := time.Until(w.detailsAt.Add(calm)); left > 0 {
			return left, nil
		}
	}
	w.detailsAt = time.Time{}
	if news {
		w.renewed = false
	}
	return 0, e.report(ctx, n, pod, m, w.seen())
}

// reportUnready tells of a Pod whose containers are being ended that it is not ready any more: because it has failed, or by its probes, to which a
// program that drains may say so. What else changes until they have ended is told with that.
func (e *engine) reportUnready(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) error {
	o := w.seen()
	o.Failure = w.failure
	status := e.observed(n, pod, m, o)
	if !between(pod.Status, status) || !slices.ContainsFunc(status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Running != nil }) {
		return nil
	}
	return e.report(ctx, n, pod, m, o)
}

// between says whether b tells that a Pod which runs is not ready any more.
func between(a, b corev1.PodStatus) bool {
	return a.Phase == corev1.PodRunning && b.Phase == corev1.PodRunning && podutil.IsPodReadyConditionTrue(a) && !podutil.IsPodReadyConditionTrue(b)
}

// seen is what only the worker of the Pod knows of a Pod that has its Machine.
func (w *work) seen() translate.Observed {
	return translate.Observed{Waiting: w.waiting, Refused: w.refusedHere,
		Resize: w.resizing.pending, ResizeGeneration: w.resizing.accepted}
}

// urgent says whether two statuses differ in what controllers, Services and people act on.
func urgent(a, b corev1.PodStatus) bool {
	if beginning(a, b) {
		return false
	}
	return a.Phase != b.Phase || a.Reason != b.Reason || a.Message != b.Message || (a.StartTime == nil) != (b.StartTime == nil) ||
		a.Phase == corev1.PodRunning && a.PodIP != b.PodIP || slices.ContainsFunc(b.Conditions, func(c corev1.PodCondition) bool {
		_, was := podutil.GetPodConditionFromList(a.Conditions, c.Type)
		return c.Type != corev1.PodReadyToStartContainers && (was == nil || was.Status != c.Status)
	}) || containersDiffer(a.InitContainerStatuses, b.InitContainerStatuses) || containersDiffer(a.ContainerStatuses, b.ContainerStatuses) ||
		containersDiffer(a.EphemeralContainerStatuses, b.EphemeralContainerStatuses)
}

// beginning says whether b tells no more than that the Pod has arrived and its containers are being made, which most Pods outrun.
func beginning(a, b corev1.PodStatus) bool {
	creating := func(s corev1.ContainerStatus) bool {
		return s.State.Waiting != nil && (s.State.Waiting.Reason == "ContainerCreating" || s.State.Waiting.Reason == "PodInitializing")
	}
	other := func(s corev1.ContainerStatus) bool { return !creating(s) || s.RestartCount > 0 }
	return a.StartTime == nil && a.Phase == corev1.PodPending && b.Phase == corev1.PodPending && b.Reason == "" && b.Message == "" &&
		!slices.ContainsFunc(b.InitContainerStatuses, other) && !slices.ContainsFunc(b.ContainerStatuses, other)
}

func containersDiffer(a, b []corev1.ContainerStatus) bool {
	return !slices.EqualFunc(a, b, func(x, y corev1.ContainerStatus) bool {
		return x.Name == y.Name && x.Ready == y.Ready && x.RestartCount == y.RestartCount && equality.Semantic.DeepEqual(x.State, y.State) &&
			equality.Semantic.DeepEqual(x.LastTerminationState, y.LastTerminationState)
	})
}

// writeStatus writes the status over the one that is known, which costs the API server less than a patch: that is for when somebody else has
// written the Pod meanwhile.
func writeStatus(ctx context.Context, n *node, pod *corev1.Pod, status corev1.PodStatus) (*corev1.Pod, error) {
	whole := *pod
	whole.Status = status
	updated, err := n.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, &whole, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return patchStatus(ctx, n, pod, status)
	}
	return updated, err
}

// patchStatus sends the difference alone, so that what others write meanwhile is kept; the UID in it is a precondition.
func patchStatus(ctx context.Context, n *node, pod *corev1.Pod, status corev1.PodStatus) (*corev1.Pod, error) {
	before, err := json.Marshal(corev1.Pod{Status: pod.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: status})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	return n.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}
