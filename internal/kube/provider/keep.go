package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"gondola"
	"gondola/internal/kube/translate"
)

// keep looks after a Pod that has its Machine and should run.
func (e *engine) keep(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	if w.failure == nil && expired(pod) {
		w.failure = deadlineExceeded()
		e.eventf(n, pod, "", corev1.EventTypeNormal, w.failure.Reason, "%s", w.failure.Message)
	}
	if w.failure == nil && m.State == gondola.LaunchFailed {
		w.failure = &translate.Failure{Reason: "LaunchFailed", Message: machineMessage(m)}
	}
	if f := e.evictionOf(pod.UID); w.failure == nil && f != nil {
		w.failure, w.evicted = f, true
	}
	if w.failure != nil {
		if running(m) {
			grace := gracePeriod(pod)
			if w.evicted {
				grace = min(grace, evictGrace)
			}
			if err := e.reportUnready(ctx, n, pod, m, w); err != nil {
				return 0, err
			}
			return e.stop(ctx, pod, m, w, grace)
		}
		return 0, e.report(ctx, n, pod, m, translate.Observed{Failure: w.failure, Over: true})
	}
	if err := e.relabel(ctx, pod, m); err != nil {
		return 0, err
	}
	m, due := e.resize(ctx, n, pod, m, w) // before the status: that tells of the spec it has seen
	details, err := e.reportCalmly(ctx, n, pod, m, w)
	if err != nil {
		return 0, err
	}
	details = sooner(details, due)
	again, err := e.restart(ctx, n, pod, m, w)
	if err != nil || again > 0 {
		return sooner(again, details), err
	}
	if again, err = e.refresh(ctx, n, pod, m, w); err != nil {
		return 0, err
	}
	again = sooner(again, details)
	look, err := e.addEphemeral(ctx, n, pod, m, w)
	if err != nil {
		return 0, err
	}
	again = sooner(again, look)
	if left, limited := remaining(pod); limited {
		again = sooner(again, max(left, time.Millisecond))
	}
	return again, nil
}

// restart starts a Machine that stands still though its Pod should run: it was stopped from outside, or could not be started.
func (e *engine) restart(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	switch m.State {
	case gondola.Created, gondola.Stopped, gondola.Suspended, gondola.Failed:
	default:
		if m.State == gondola.Started {
			w.tries = 0
		}
		return 0, nil
	}
	status := translate.PodStatus(pod, m, translate.Observed{Now: time.Now()})
	if status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed {
		return 0, nil
	}
	if wait := time.Until(m.UpdatedAt.Add(backoff(w.tries+1, time.Second, time.Minute))); wait > 0 && m.State != gondola.Created {
		return wait, nil
	}
	w.tries++
	if m.State == gondola.Failed {
		e.eventf(n, pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %s", machineMessage(m))
	}
	_, err := e.cfg.Platform.Start(ctx, m.Ref())
	if errors.Is(err, gondola.ErrCapacity) {
		e.eventf(n, pod, "", corev1.EventTypeWarning, "NoCapacity", "%v", err)
		return backoff(w.tries, time.Second, 10*time.Second), nil
	}
	if err != nil && !errors.Is(err, gondola.ErrPrecondition) {
		return 0, fmt.Errorf("start machine %s of pod %s/%s: %w", m.ID, pod.Namespace, pod.Name, err)
	}
	return backoff(w.tries, time.Second, time.Minute), nil
}

// settle looks after a Pod that has ended: its Machine stands still and keeps its logs until the Pod is deleted. That of one that was evicted goes at
// once: what it has on disk is what it was evicted for.
func (e *engine) settle(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	n.objects.hold(pod.UID, nil)
	if running(m) {
		return e.stop(ctx, pod, m, w, gracePeriod(pod))
	}
	if m == nil && !ran(pod) {
		return 0, nil // it never had a Machine: what was reported stands
	}
	if err := e.report(ctx, n, pod, m, translate.Observed{Over: true}); err != nil || pod.Status.Reason != evicted {
		return 0, err
	}
	return 0, e.destroy(ctx, m)
}

// terminate ends a Pod that is being deleted: stop, final status, destroy, and the API object goes.
func (e *engine) terminate(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	n.objects.hold(pod.UID, nil)
	if m == nil {
		found, err := e.find(ctx, pod)
		if err != nil {
			return 0, err
		}
		if found != nil {
			e.putMachine(found)
			return 0, nil
		}
	}
	if running(m) {
		grace := time.Duration(0)
		if s := pod.DeletionGracePeriodSeconds; s != nil {
			grace = time.Duration(*s) * time.Second
		}
		if err := e.reportUnready(ctx, n, pod, m, w); err != nil {
			return 0, err
		}
		// The timestamp is when the grace period ends, in whole seconds.
		return e.stop(ctx, pod, m, w, max(min(grace, time.Until(pod.DeletionTimestamp.Time)+time.Second), leastGrace))
	}
	if err := e.report(ctx, n, pod, m, translate.Observed{Over: true, Failure: w.failure}); err != nil {
		return 0, err
	}
	if n.library != nil && n.library.unheard(pod) {
		return 50 * time.Millisecond, nil // how it ended is to be seen before it goes
	}
	if err := e.destroy(ctx, m); err != nil {
		return 0, err
	}
	if wait, err := e.vacating(ctx, pod, m); wait > 0 || err != nil {
		return wait, err
	}
	err := n.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return 0, fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return 0, nil
}

// leastGrace is what containers get for their end whatever the Pod's deletion says, as with a kubelet: who deletes with a grace period of 0 does not wait
// for them, and they are told all the same.
const leastGrace = 2 * time.Second

// stop asks the Machine to end within grace, once, and again when the grace was shortened. A Machine that does not end is destroyed.
func (e *engine) stop(ctx context.Context, pod *corev1.Pod, m *gondola.Machine, w *work, grace time.Duration) (time.Duration, error) {
	const patience = 15 * time.Second // beyond the grace period
	if w.stopGrace >= 0 && grace >= w.stopGrace-time.Since(w.stopSent)-time.Second {
		left := time.Until(w.stopSent.Add(w.stopGrace + patience))
		if left > 0 {
			return left, nil
		}
		e.log.Warn("machine did not stop: destroying it", "machine", m.ID, "pod", pod.Namespace+"/"+pod.Name)
		return patience, e.destroy(ctx, m)
	}
	timeout := gondola.Duration(grace)
	err := e.cfg.Platform.Stop(ctx, m.Ref(), gondola.StopRequest{Timeout: &timeout})
	switch {
	case errors.Is(err, gondola.ErrNotFound):
		e.gone(pod.UID, m)
		return 0, nil
	case err != nil && !errors.Is(err, gondola.ErrPrecondition):
		return 0, fmt.Errorf("stop machine %s of pod %s/%s: %w", m.ID, pod.Namespace, pod.Name, err)
	}
	w.stopGrace, w.stopSent = grace, time.Now()
	return grace + patience, nil
}

// destroy undoes a Machine; none, or one that is gone, is fine.
func (e *engine) destroy(ctx context.Context, m *gondola.Machine) error {
	if m == nil || m.State == gondola.Destroyed || m.State == gondola.Destroying {
		return nil
	}
	err := e.cfg.Platform.Destroy(ctx, m.Ref(), true)
	if err != nil && !errors.Is(err, gondola.ErrNotFound) {
		return fmt.Errorf("destroy machine %s: %w", m.ID, err)
	}
	return nil
}

// gone notes that the platform does not know the Machine any more.
func (e *engine) gone(uid types.UID, m *gondola.Machine) {
	c := *m
	c.State = gondola.Destroyed
	e.mu.Lock()
	if t, ok := e.pods[uid]; ok && t.machine == m {
		t.machine = &c
	}
	e.mu.Unlock()
	e.queue.Add(uid)
}

// collect removes the Machine of a Pod that is not in the API any more: force-deleted, or gone while nobody looked. That the Pod is gone is
// asked of the API server once more, because nothing brings the Machine back.
func (e *engine) collect(ctx context.Context, uid types.UID, m *gondola.Machine, w *work) (time.Duration, error) {
	for _, n := range e.nodes {
		n.objects.hold(uid, nil)
		n.tokens.DeleteServiceAccountToken(uid)
	}
	if m == nil || m.State == gondola.Destroyed || m.State == gondola.Destroying {
		if m == nil || m.State == gondola.Destroyed {
			e.mu.Lock()
			if t, ok := e.pods[uid]; ok && t.pod == nil {
				delete(e.pods, uid)
			}
			e.mu.Unlock()
		}
		return 0, nil
	}
	namespace, name := m.Config.Metadata[translate.MetadataNamespace], m.Config.Metadata[translate.MetadataPod]
	pod, err := e.admin.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && pod.UID != uid:
	case err != nil:
		return 0, fmt.Errorf("is pod %s/%s really gone: %w", namespace, name, err)
	case e.nodes[pod.Spec.NodeName] != nil:
		e.putPod(pod)
		return 0, nil
	default:
		return time.Minute, nil // there, but not on a node of ours: hands off
	}
	if running(m) {
		return e.stop(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: uid}}, m, w, leastGrace)
	}
	e.log.Info("destroying the machine of a pod that is gone", "machine", m.ID, "pod", namespace+"/"+name, "uid", uid)
	return 0, e.destroy(ctx, m)
}

// running says whether containers of the Machine run or may run without being asked.
func running(m *gondola.Machine) bool {
	if m == nil {
		return false
	}
	switch m.State {
	case gondola.Starting, gondola.Started, gondola.Stopping, gondola.Suspending, gondola.Suspended, gondola.Restarting, gondola.Updating, gondola.Replacing:
		return true
	}
	return false
}

func gracePeriod(pod *corev1.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

func machineMessage(m *gondola.Machine) string {
	if m.Gondola != nil && m.Gondola.Message != "" {
		return m.Gondola.Message
	}
	return fmt.Sprintf("machine %s is %s", m.ID, m.State)
}

// sooner returns the shorter of two waits, of which zero is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
