package provider

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/events"

	"gondola"
	"gondola/internal/kube/translate"
)

// resizing is what the worker of a Pod remembers of a resize.
type resizing struct {
	pending    *translate.Pending // why what the spec asks for is not carried out; nil: it is, or was not tried yet
	generation int64              // of the spec that was tried
	accepted   int64              // generation of the spec that was carried out last by this process
	tries      int
	next       time.Time
	told       *gondola.ResizeState // of the Machine, the last time
}

// resize lets the Machine have what the Pod's spec asks for. It returns the Machine as it is then, and when to look again; zero: not.
func (e *engine) resize(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (*gondola.Machine, time.Duration) {
	r := &w.resizing
	e.tellResize(n, pod, m, r)
	if !translate.Resized(pod, m) {
		r.pending, r.tries = nil, 0
		return m, 0
	}
	if r.generation != pod.Generation {
		r.generation, r.tries, r.next = pod.Generation, 0, time.Time{}
	}
	if left := time.Until(r.next); left > 0 {
		return m, left
	}
	updated, err := e.cfg.Platform.Resize(ctx, m.Ref(), translate.Resize(pod))
	if err == nil {
		r.pending, r.tries, r.accepted = nil, 0, pod.Generation
		e.eventf(n, pod, "", corev1.EventTypeNormal, events.ResizeStarted, "%s", events.PodResizeStartedMsg(klog.FromContext(ctx), pod, pod.Generation))
		e.tellResize(n, pod, &updated, r)
		e.putMachine(&updated)
		return &updated, 0
	}
	r.tries++
	wait := backoff(r.tries, time.Second, 10*time.Second)
	pending := translate.Pending{Reason: corev1.PodReasonDeferred, Message: err.Error()}
	if never(err, translate.Requests(pod)) {
		pending.Reason, wait = corev1.PodReasonInfeasible, time.Minute
	}
	r.next = time.Now().Add(wait)
	if r.pending == nil || *r.pending != pending {
		reason := events.ResizeDeferred
		if pending.Reason == corev1.PodReasonInfeasible {
			reason = events.ResizeInfeasible
		}
		e.eventf(n, pod, "", corev1.EventTypeWarning, reason, "%s",
			events.PodResizePendingMsg(klog.FromContext(ctx), pod, pending.Reason, pending.Message, pod.Generation))
	}
	r.pending = &pending
	return m, wait
}

// never says whether what was refused cannot become possible: more than the worker has, or nothing that the platform does.
func never(err error, want gondola.Resources) bool {
	for _, r := range gondola.Refusals(err) {
		if !want.Fits(r.Capacity) {
			return true
		}
	}
	return errors.Is(err, gondola.ErrInvalid) || errors.Is(err, gondola.ErrUnsupported)
}

// tellResize tells by Events how a resize that was accepted goes.
func (e *engine) tellResize(n *node, pod *corev1.Pod, m *gondola.Machine, r *resizing) {
	if m.Gondola == nil {
		return
	}
	was, is := r.told, m.Gondola.Resize
	r.told = is
	switch {
	case is != nil && is.Error != "" && (was == nil || was.Error != is.Error):
		e.eventf(n, pod, "", corev1.EventTypeWarning, events.ResizeError, "%s",
			events.PodResizeErrorMsg(klog.Background(), pod, pod.Generation, is.Error))
	case was != nil && is == nil:
		e.eventf(n, pod, "", corev1.EventTypeNormal, events.ResizeCompleted, "%s", events.PodResizeCompletedMsg(klog.Background(), pod, pod.Generation))
	}
}
