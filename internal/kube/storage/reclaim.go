package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"gondola"
	"gondola/internal/kube/translate"
)

// reclaiming is the finalizer of a PersistentVolume whose Volume goes before it.
const reclaiming = Driver + "/reclaim"

// volume looks after a PersistentVolume: its finalizer, its end, and whether its Volume is still there.
func (c *Controller) volume(ctx context.Context, name string) (time.Duration, error) {
	pv, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil || !ours(pv) {
		return 0, err
	}
	made := pv.Annotations[storagehelpers.AnnDynamicallyProvisioned] == Driver
	deletes := made && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	guarded := slices.Contains(pv.Finalizers, reclaiming)
	switch {
	case deletes && !guarded && pv.DeletionTimestamp == nil:
		return 0, c.patchVolume(ctx, pv, finalizers(pv, with(pv.Finalizers, reclaiming)))
	case guarded && !deletes: // retained from now on: Kubernetes' object alone may go
		return 0, c.patchVolume(ctx, pv, finalizers(pv, without(pv.Finalizers, reclaiming)))
	case deletes && guarded && c.released(ctx, pv):
		return c.reclaim(ctx, pv)
	case pv.Status.Phase == corev1.VolumeBound:
		return 0, c.missed(ctx, pv)
	}
	return 0, nil
}

// released says whether nobody has a right to the volume any more: its claim is gone for good, or has another.
func (c *Controller) released(ctx context.Context, pv *corev1.PersistentVolume) bool {
	r := pv.Spec.ClaimRef
	if r == nil { // nobody ever had it, or an administrator gave it free: it goes only when told so
		return pv.DeletionTimestamp != nil
	}
	if pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed && pv.DeletionTimestamp == nil {
		return false
	}
	claim, err := c.client.CoreV1().PersistentVolumeClaims(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if err != nil {
		return apierrors.IsNotFound(err)
	}
	return r.UID != "" && claim.UID != r.UID || claim.Spec.VolumeName != "" && claim.Spec.VolumeName != pv.Name
}

// reclaim deletes the Volume, and the App with its last where the namespace is gone, and then lets the PersistentVolume go. What was to be made of the
// Volume is made first.
func (c *Controller) reclaim(ctx context.Context, pv *corev1.PersistentVolume) (time.Duration, error) {
	if pv.DeletionTimestamp == nil {
		if copied, err := c.copied(ctx, pv.Spec.ClaimRef); copied || err != nil {
			return 2 * time.Second, err
		}
	}
	ref, err := translate.ParseVolumeHandle(pv.Spec.CSI.VolumeHandle)
	if err == nil {
		err = c.deleteVolume(ctx, ref)
	}
	if err != nil {
		c.recorder.Eventf(pv, corev1.EventTypeWarning, "VolumeFailedDelete", "%v", err)
		return 0, laterError{err}
	}
	if pv.DeletionTimestamp == nil {
		err := c.client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pv.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return 0, fmt.Errorf("delete persistent volume %s: %w", pv.Name, err)
		}
		return 0, nil // its deletion brings it back
	}
	if r := pv.Spec.ClaimRef; r != nil {
		if err := c.cfg.Apps.DropApp(ctx, r.Namespace); err != nil {
			return 0, fmt.Errorf("drop app %s: %w", ref.App, err)
		}
	}
	return 0, c.patchVolume(ctx, pv, finalizers(pv, without(pv.Finalizers, reclaiming)))
}

// deleteVolume deletes a Volume; one that is gone is fine.
func (c *Controller) deleteVolume(ctx context.Context, ref gondola.VolumeRef) error {
	_, err := c.cfg.Volumes.PurgeVolume(ctx, ref) // what it was, Kubernetes has forgotten: nobody would recover it
	if err != nil && !errors.Is(err, gondola.ErrNotFound) {
		return fmt.Errorf("delete volume %s of app %s: %w", ref.ID, ref.App, err)
	}
	return nil
}

// missed tells that the Volume behind a bound PersistentVolume is gone: somebody deleted it without asking Kubernetes.
func (c *Controller) missed(ctx context.Context, pv *corev1.PersistentVolume) error {
	ref, err := translate.ParseVolumeHandle(pv.Spec.CSI.VolumeHandle)
	if err == nil {
		_, err = c.cfg.Volumes.Volume(ctx, ref)
	}
	if !errors.Is(err, gondola.ErrNotFound) && !errors.Is(err, gondola.ErrInvalid) {
		return nil // there, or its worker does not answer: nothing to tell
	}
	message := fmt.Sprintf("the volume behind PersistentVolume %s is not on the platform any more, and its data with it: delete the claim, or restore a snapshot into a new one (%v)", pv.Name, err)
	c.recorder.Event(pv, corev1.EventTypeWarning, "VolumeLost", message)
	if r := pv.Spec.ClaimRef; r != nil {
		if pvc, err := c.claims.PersistentVolumeClaims(r.Namespace).Get(r.Name); err == nil && pvc.UID == r.UID {
			c.recorder.Event(pvc, corev1.EventTypeWarning, "VolumeLost", message)
		}
	}
	return nil
}
