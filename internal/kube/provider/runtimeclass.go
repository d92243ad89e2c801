package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola/internal/kube/translate"
)

// driver returns what the Pod's RuntimeClass names as its handler, which is a driver of the platform; empty if the Pod has no class. As on a
// kubelet without that handler, the Pod is refused by name.
func (e *engine) driver(ctx context.Context, n *node, pod *corev1.Pod) (string, error) {
	c := pod.Spec.RuntimeClassName
	if c == nil || *c == "" {
		return "", nil
	}
	refuse := func(format string, args ...any) (string, error) {
		return "", &translate.UnsupportedError{Fields: []string{fmt.Sprintf("spec.runtimeClassName %q: ", *c) + fmt.Sprintf(format, args...)}}
	}
	class, err := n.client.NodeV1().RuntimeClasses().Get(ctx, *c, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return refuse("there is no such RuntimeClass")
	}
	if err != nil {
		return "", fmt.Errorf("runtime class %s: %w", *c, err)
	}
	if slices.Contains(e.cfg.Drivers, class.Handler) {
		return class.Handler, nil
	}
	offered := strings.Join(e.cfg.Drivers, ", ")
	if class.Handler == "runc" {
		return refuse("handler runc is not allowed here, only %s: the platform's operator allows it with gondola up --allow-driver runc", offered)
	}
	return refuse("handler %s is not known here: there is %s", class.Handler, offered)
}
