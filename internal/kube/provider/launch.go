package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
	"gondola/internal/kube/translate"
)

// launch makes the Machine of a Pod that has none.
func (e *engine) launch(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	if m != nil || ran(pod) && w.failure == nil {
		found, err := e.find(ctx, pod)
		if err != nil {
			return 0, err
		}
		if found == nil {
			w.failure = &translate.Failure{Reason: "MachineDestroyed", Message: "The Machine of this Pod was destroyed from outside; a Pod never gets a second one."}
		} else if e.putMachine(found); true {
			return 0, nil
		}
	}
	if w.failure == nil && expired(pod) {
		w.failure = deadlineExceeded()
	}
	if w.failure == nil {
		w.failure = e.takeHostPorts(pod)
	}
	if w.failure != nil {
		e.eventf(n, pod, "", corev1.EventTypeWarning, w.failure.Reason, "%s", w.failure.Message)
		return 0, e.report(ctx, n, pod, m, translate.Observed{Failure: w.failure, Over: true})
	}
	if !e.policies.settled() {
		return 20 * time.Millisecond, nil
	}
	req, err := e.request(ctx, n, pod)
	if err != nil {
		return e.unready(ctx, n, pod, w, err)
	}
	if err := e.ensureApp(ctx, pod.Namespace); err != nil {
		return 0, err
	}
	app := gondola.AppOfNamespace(e.cfg.Cluster, pod.Namespace)
	if wait, err := e.occupied(ctx, n, pod, w, app, req.Config.Mounts); wait > 0 || err != nil {
		return wait, err
	}
	made, err := e.cfg.Platform.Create(w.follow(ctx, pod), app, req)
	if err != nil {
		return e.refused(ctx, n, pod, w, err)
	}
	w.refused, w.waiting, w.tries = time.Time{}, nil, 0
	w.payload, w.createdHere = digest(req.Gondola.Payload), true
	e.putMachine(&made)
	return 0, nil
}

// ran says whether the Pod's status shows that it once had a Machine.
func ran(pod *corev1.Pod) bool {
	if pod.Status.PodIP != "" {
		return true
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range list {
			if s.ContainerID != "" {
				return true
			}
		}
	}
	return false
}

// find asks the platform for the Pod's Machine; nil if there is none.
func (e *engine) find(ctx context.Context, pod *corev1.Pod) (*gondola.Machine, error) {
	app := gondola.AppOfNamespace(e.cfg.Cluster, pod.Namespace)
	list, err := e.cfg.Platform.List(ctx, app, gondola.ListFilter{Metadata: map[string]string{translate.MetadataUID: string(pod.UID)}})
	if errors.Is(err, gondola.ErrNotFound) {
		return nil, nil // no such App
	}
	if err != nil {
		return nil, fmt.Errorf("look for the Machine of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	for i := range list {
		if list[i].State != gondola.Destroyed {
			return &list[i], nil
		}
	}
	return nil, nil
}

// lag is how many refusals to let a node read what its Pod needs are put down to the API server's node authorizer and admission being a
// little behind: with the waits between them, 600 ms.
const lag = 6

// unready says why the Pod cannot be translated: never (it fails), or not yet (it waits).
func (e *engine) unready(ctx context.Context, n *node, pod *corev1.Pod, w *work, err error) (time.Duration, error) {
	var unsupported *translate.UnsupportedError
	var missing *translate.MissingError
	switch {
	case errors.As(err, &unsupported):
		return e.unsupported(ctx, n, pod, w, unsupported.Error())
	case errors.As(err, &missing) && missing.Container != "":
		w.waiting = &translate.Waiting{Container: missing.Container, Reason: "CreateContainerConfigError", Message: missing.Message}
		e.eventf(n, pod, containerPath(pod, missing.Container), corev1.EventTypeWarning, "Failed", "Error: %s", missing.Message)
	case errors.As(err, &missing):
		w.waiting = nil
		e.eventf(n, pod, "", corev1.EventTypeWarning, "FailedMount", "MountVolume.SetUp failed for volume %q : %s", missing.Volume, missing.Message)
	default:
		if w.tries++; w.tries <= lag { // the API server's own watches tell it a moment after us that the Pod is on this node
			return backoff(w.tries, 10*time.Millisecond, time.Second), nil
		}
		e.log.Warn("pod cannot be prepared: trying again", "pod", pod.Namespace+"/"+pod.Name, "try", w.tries, "err", err)
		e.eventf(n, pod, "", corev1.EventTypeWarning, "FailedMount", "%v", err)
		return backoff(w.tries-lag, 200*time.Millisecond, 20*time.Second), e.report(ctx, n, pod, nil, translate.Observed{})
	}
	w.tries++
	return backoff(w.tries, 2*time.Second, time.Minute), e.report(ctx, n, pod, nil, translate.Observed{Waiting: w.waiting})
}

// refused acts on a Create that was not carried out.
func (e *engine) refused(ctx context.Context, n *node, pod *corev1.Pod, w *work, err error) (time.Duration, error) {
	switch {
	case errors.Is(err, gondola.ErrCapacity):
		return e.noRoom(ctx, n, pod, w, err)
	case errors.Is(err, gondola.ErrNameTaken), errors.Is(err, gondola.ErrConflict):
		found, ferr := e.find(ctx, pod)
		if ferr != nil || found == nil {
			return 0, errors.Join(err, ferr)
		}
		e.putMachine(found)
		return 0, nil
	case errors.Is(err, gondola.ErrInvalid), errors.Is(err, gondola.ErrUnsupported):
		return e.unsupported(ctx, n, pod, w, err.Error())
	case errors.Is(err, gondola.ErrNotFound):
		e.forgetApp(pod.Namespace)
	}
	e.eventf(n, pod, "", corev1.EventTypeWarning, "FailedCreate", "%v", err)
	w.tries++
	return backoff(w.tries, 500*time.Millisecond, 15*time.Second), e.report(ctx, n, pod, nil, translate.Observed{Waiting: w.waiting})
}

// unsupported fails a Pod that can never run here. One whose controller would at once make another like it waits instead, and says why: only a Job counts
// the Pods that fail.
func (e *engine) unsupported(ctx context.Context, n *node, pod *corev1.Pod, w *work, why string) (time.Duration, error) {
	const reason = "Unsupported"
	e.eventf(n, pod, "", corev1.EventTypeWarning, reason, "%s", why)
	if c := metav1.GetControllerOf(pod); c != nil && c.Kind != "Job" {
		w.tries++
		w.waiting = &translate.Waiting{Reason: reason, Message: why}
		return backoff(w.tries, 2*time.Second, 5*time.Minute), e.report(ctx, n, pod, nil, translate.Observed{Waiting: w.waiting})
	}
	w.failure = &translate.Failure{Reason: reason, Message: why}
	return 0, e.report(ctx, n, pod, nil, translate.Observed{Failure: w.failure, Over: true})
}

// noRoom keeps a bound Pod Pending while its region may yet have room, and then fails it as a kubelet's admission would, so that its
// controller makes another.
func (e *engine) noRoom(ctx context.Context, n *node, pod *corev1.Pod, w *work, err error) (time.Duration, error) {
	now := time.Now()
	if w.refused.IsZero() {
		w.refused = now
	}
	if now.Sub(w.refused) >= e.cfg.Refused {
		w.failure = &translate.Failure{Reason: outOf(pod, err), Message: "Pod was rejected: " + err.Error()}
		e.eventf(n, pod, "", corev1.EventTypeWarning, w.failure.Reason, "%s", w.failure.Message)
		return 0, e.report(ctx, n, pod, nil, translate.Observed{Failure: w.failure, Over: true})
	}
	e.eventf(n, pod, "", corev1.EventTypeWarning, "NoCapacity", "%v", err)
	w.tries++
	wait := min(backoff(w.tries, time.Second, 10*time.Second), max(e.cfg.Refused-now.Sub(w.refused), time.Millisecond))
	return wait, e.report(ctx, n, pod, nil, translate.Observed{})
}

// outOf names the resource that was short, as a kubelet does.
func outOf(pod *corev1.Pod, err error) string {
	want := translate.Requests(pod)
	for _, r := range gondola.Refusals(err) {
		if want.CPUMillis > r.Free.CPUMillis {
			return "OutOfcpu"
		}
	}
	return "OutOfmemory"
}

// backoff doubles from first to most.
func backoff(try int, first, most time.Duration) time.Duration {
	d := first
	for range try - 1 {
		if d *= 2; d >= most {
			return most
		}
	}
	return d
}

// expired says whether the Pod has been active for longer than it may.
func expired(pod *corev1.Pod) bool {
	left, limited := remaining(pod)
	return limited && left <= 0
}

// remaining returns how much longer the Pod may be active.
func remaining(pod *corev1.Pod) (time.Duration, bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || pod.Status.StartTime == nil {
		return 0, false
	}
	return time.Until(pod.Status.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)), true
}

func deadlineExceeded() *translate.Failure {
	return &translate.Failure{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
}
