package kube

import (
	"context"

	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

// ensureRuntimeClasses makes the classes of the drivers that are offered: each has its driver's name, and "gondola-" before it for clusters
// where somebody else's class has the plain one. Those of drivers that are not offered any more go.
func ensureRuntimeClasses(ctx context.Context, client kubernetes.Interface, drivers []string) error {
	classes := client.NodeV1().RuntimeClasses()
	wanted := map[string]string{} // name → handler
	for _, d := range drivers {
		wanted[d], wanted["gondola-"+d] = d, d
	}
	have, err := classes.List(ctx, metav1.ListOptions{LabelSelector: labels.FormatLabels(ours)})
	if err != nil {
		return err
	}
	for _, c := range have.Items {
		if wanted[c.Name] == c.Handler {
			continue
		}
		if err := classes.Delete(ctx, c.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	for name, handler := range wanted {
		class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: ours}, Handler: handler}
		if _, err := classes.Create(ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}
