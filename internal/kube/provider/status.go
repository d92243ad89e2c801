package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"gondola"
	"gondola/internal/kube/translate"
)

// report brings the Pod's status in line with what is observed.
func (e *engine) report(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, o translate.Observed) error {
	o.Now = time.Now()
	o.HostIPs = n.Addresses
	status := translate.PodStatus(pod, m, o)
	if equality.Semantic.DeepEqual(pod.Status, status) {
		return nil
	}
	updated, err := patchStatus(ctx, n, pod, status)
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil // gone, or another Pod of this name by now: the informer tells
	case err != nil:
		return fmt.Errorf("report status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	e.mu.Lock()
	if t, ok := e.pods[pod.UID]; ok && t.pod != nil && newer(updated, t.pod) {
		t.pod = updated
	}
	e.mu.Unlock()
	return nil
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
