package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// object is what a patch is made for.
type object interface {
	GetUID() types.UID
	GetResourceVersion() string
	GetFinalizers() []string
}

// finalizers is a patch that sets an object's finalizers; nobody may have changed it meanwhile.
func finalizers(o object, list []string) map[string]any {
	if list == nil {
		list = []string{}
	}
	return map[string]any{"metadata": map[string]any{"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion(), "finalizers": list}}
}

func with(list []string, name string) []string { return append(slices.Clone(list), name) }

func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(f string) bool { return f == name })
}

func (c *Controller) addClaimFinalizer(ctx context.Context, pvc *corev1.PersistentVolumeClaim) error {
	if slices.Contains(pvc.Finalizers, provisioning) {
		return nil
	}
	return c.patchClaim(ctx, pvc, finalizers(pvc, with(pvc.Finalizers, provisioning)))
}

func (c *Controller) dropClaimFinalizer(ctx context.Context, pvc *corev1.PersistentVolumeClaim) error {
	return c.patchClaim(ctx, pvc, finalizers(pvc, without(pvc.Finalizers, provisioning)))
}

// patchClaim changes a claim, or a subresource of it.
func (c *Controller) patchClaim(ctx context.Context, pvc *corev1.PersistentVolumeClaim, patch map[string]any, subresources ...string) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().PersistentVolumeClaims(pvc.Namespace).Patch(ctx, pvc.Name, types.MergePatchType, body, metav1.PatchOptions{}, subresources...)
	return changed(err, "claim %s/%s", pvc.Namespace, pvc.Name)
}

func (c *Controller) patchVolume(ctx context.Context, pv *corev1.PersistentVolume, patch map[string]any) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, body, metav1.PatchOptions{})
	return changed(err, "persistent volume %s", pv.Name)
}

// changed explains the error of a patch. What was changed meanwhile, or is gone, is looked at again without a word: nothing is done for an object that
// is not there as it was read.
func changed(err error, what string, args ...any) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return laterError{err}
	}
	return fmt.Errorf(what+": %w", append(args, err)...)
}
