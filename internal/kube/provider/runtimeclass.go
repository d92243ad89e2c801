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

// driver returns what the Pod's RuntimeClass names as its handler, which is a driver of the platform; of a Pod without a class the one to fall
// back on, if the default cannot run it, else empty. As on a kubelet without that handler, the Pod is refused by name.
func (e *engine) driver(ctx context.Context, n *node, pod *corev1.Pod) (string, error) {
	c := pod.Spec.RuntimeClassName
	if c == nil || *c == "" {
		return e.fallback(n, pod), nil
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

// fallback is the driver of a Pod that has no RuntimeClass and asks for what the default driver cannot give, where the operator allows that and
// the other one can; empty: the default.
func (e *engine) fallback(n *node, pod *corev1.Pod) string {
	f := e.cfg.FallbackDriver
	if f == "" || len(translate.Unsupported(pod, e.cfg.Drivers[0], n.Gateway)) == 0 || len(translate.Unsupported(pod, f, n.Gateway)) > 0 {
		return ""
	}
	return f
}
