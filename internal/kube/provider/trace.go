package provider

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
)

// follow returns a context in which what is done for a Pod belongs to the trace of its way to Running.
func (w *work) follow(ctx context.Context, pod *corev1.Pod) context.Context {
	if w.span == nil {
		_, w.span = otel.Tracer("gondola/provider").Start(ctx, "pod start", trace.WithTimestamp(w.began), trace.WithAttributes(
			attribute.String("k8s.namespace.name", pod.Namespace), attribute.String("k8s.pod.name", pod.Name),
			attribute.String("k8s.pod.uid", string(pod.UID)), attribute.String("k8s.node.name", pod.Spec.NodeName)))
	}
	return trace.ContextWithSpan(ctx, w.span)
}

// told takes in that a Pod's status was reported: its way ends where it runs or is over.
func (e *engine) told(n *node, w *work, before, now corev1.PodPhase) {
	if w.span == nil || before == now || now == corev1.PodPending {
		return
	}
	w.span.SetAttributes(attribute.String("phase", string(now)))
	w.span.End()
	w.span = nil
	if e.cfg.PodStarted != nil && now == corev1.PodRunning {
		e.cfg.PodStarted(n.Region, time.Since(w.began))
	}
}
