package storage

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"gondola"
	"gondola/internal/kube/translate"
)

// source is what a new Volume begins as; zero: empty.
type source struct {
	snapshot string           // id
	volume   gondola.VolumeID // a copy of it
	region   gondola.Region   // where that is, and so must the new one be; empty: anywhere
}

// source finds what a claim is to be made from. ErrPrecondition says that it is not ready yet, ErrUnsupported or ErrInvalid that it cannot be.
func (c *Controller) source(ctx context.Context, pvc *corev1.PersistentVolumeClaim) (source, error) {
	ref := pvc.Spec.DataSourceRef
	if ref == nil && pvc.Spec.DataSource != nil {
		d := pvc.Spec.DataSource
		ref = &corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}
	}
	if ref == nil {
		return source{}, nil
	}
	group := ""
	if ref.APIGroup != nil {
		group = *ref.APIGroup
	}
	switch {
	case ref.Namespace != nil && *ref.Namespace != "" && *ref.Namespace != pvc.Namespace:
		return source{}, gondola.Errorf(gondola.ErrUnsupported, "dataSourceRef.namespace %s is not supported: a claim is made from what is in its own namespace", *ref.Namespace)
	case group == snapshotResource.Group && ref.Kind == "VolumeSnapshot":
		return c.fromSnapshot(ctx, pvc, ref.Name)
	case group == "" && ref.Kind == "PersistentVolumeClaim":
		return c.fromClaim(ctx, pvc, ref.Name)
	}
	return source{}, gondola.Errorf(gondola.ErrUnsupported, "dataSource %s %s is not supported: use a VolumeSnapshot or a PersistentVolumeClaim", ref.Kind, ref.Name)
}

func (c *Controller) fromSnapshot(ctx context.Context, pvc *corev1.PersistentVolumeClaim, name string) (source, error) {
	var s snapshotObject
	err := c.read(ctx, snapshotResource, pvc.Namespace, name, &s)
	if apierrors.IsNotFound(err) {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "VolumeSnapshot %s is not there yet", name)
	}
	if err != nil {
		return source{}, err
	}
	if s.DeletionTimestamp != nil {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "VolumeSnapshot %s is being deleted", name)
	}
	if s.Status.BoundVolumeSnapshotContentName == nil || s.Status.ReadyToUse == nil || !*s.Status.ReadyToUse {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "VolumeSnapshot %s is not ready to use yet", name)
	}
	var content contentObject
	if err := c.read(ctx, contentResource, "", *s.Status.BoundVolumeSnapshotContentName, &content); err != nil {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "VolumeSnapshotContent %s of VolumeSnapshot %s: %w", *s.Status.BoundVolumeSnapshotContentName, name, err)
	}
	if content.Spec.Driver != Driver || content.Status.SnapshotHandle == nil || content.Spec.VolumeSnapshotRef.UID != s.UID {
		return source{}, gondola.Errorf(gondola.ErrInvalid, "VolumeSnapshotContent %s is of the driver %s and not VolumeSnapshot %s's own of %s", content.Name, content.Spec.Driver, name, Driver)
	}
	ref, err := parseSnapshotHandle(*content.Status.SnapshotHandle)
	if err != nil {
		return source{}, err
	}
	if app := c.refOf(pvc).App; ref.volume.App != app {
		return source{}, gondola.Errorf(gondola.ErrUnsupported, "VolumeSnapshot %s is of app %s, and a volume of this namespace can be made from those of app %s only", name, ref.volume.App, app)
	}
	if size := s.Status.RestoreSize; size != nil && wanted(pvc) < size.Value() {
		return source{}, gondola.Errorf(gondola.ErrInvalid, "%s is smaller than VolumeSnapshot %s, which wants %s", pvc.Spec.Resources.Requests.Storage(), name, size)
	}
	snap, err := c.find(ctx, ref) // its Volume may be gone
	if err != nil {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "VolumeSnapshot %s: %w", name, err)
	}
	return source{snapshot: ref.id, region: snap.Region}, nil
}

func (c *Controller) fromClaim(ctx context.Context, pvc *corev1.PersistentVolumeClaim, name string) (source, error) {
	pv, err := c.volumeOf(ctx, pvc.Namespace, name)
	if err != nil {
		return source{}, err
	}
	ref, err := translate.PersistentVolumeRef(pv)
	if err != nil {
		return source{}, err
	}
	if app := c.refOf(pvc).App; ref.App != app {
		return source{}, gondola.Errorf(gondola.ErrUnsupported, "claim %s has a volume of app %s, and a volume of this namespace can be made from those of app %s only", name, ref.App, app)
	}
	if size := pv.Spec.Capacity.Storage(); wanted(pvc) < size.Value() {
		return source{}, gondola.Errorf(gondola.ErrInvalid, "%s is smaller than claim %s, which has %s", pvc.Spec.Resources.Requests.Storage(), name, size)
	}
	vol, err := c.cfg.Volumes.Volume(ctx, ref)
	if err != nil {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "volume %s of claim %s: %w", ref.ID, name, err)
	}
	return source{volume: ref.ID, region: vol.Region}, nil
}

// volumeOf returns the PersistentVolume of a claim. That of a claim which is gone is found as long as it waits for what is made of it (copied).
// ErrPrecondition says what is missing.
func (c *Controller) volumeOf(ctx context.Context, namespace, claim string) (*corev1.PersistentVolume, error) {
	pvc, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, metav1.GetOptions{})
	if err == nil && pvc.Status.Phase != corev1.ClaimBound {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "claim %s is not bound to a volume", claim)
	}
	if err == nil {
		pv, err := c.volumes.Get(pvc.Spec.VolumeName)
		if err != nil {
			return nil, gondola.Errorf(gondola.ErrPrecondition, "PersistentVolume %s of claim %s is not there", pvc.Spec.VolumeName, claim)
		}
		return pv, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	all, err := c.volumes.List(everything)
	if err != nil {
		return nil, err
	}
	for _, pv := range all {
		r := pv.Spec.ClaimRef
		if ours(pv) && slices.Contains(pv.Finalizers, reclaiming) && pv.DeletionTimestamp == nil && r != nil && r.Namespace == namespace && r.Name == claim {
			return pv, nil
		}
	}
	return nil, gondola.Errorf(gondola.ErrPrecondition, "claim %s is not there", claim)
}

// copied says whether something is to be made of a claim that is gone, and was asked for when it was there, or might have been: a snapshot that is not
// taken yet, or a claim that is having its Volume made. One that can never be made counts for nothing.
func (c *Controller) copied(ctx context.Context, claim *corev1.ObjectReference) (bool, error) {
	if claim == nil {
		return false, nil
	}
	claims, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for i := range claims.Items {
		pvc := &claims.Items[i]
		d := pvc.Spec.DataSource
		if d == nil || d.Kind != "PersistentVolumeClaim" || d.Name != claim.Name || pvc.Spec.VolumeName != "" || pvc.DeletionTimestamp != nil {
			continue
		}
		class, err := c.classes.Get(storagehelpers.GetPersistentVolumeClaimClass(pvc))
		if err != nil || class.Provisioner != Driver || waits(class) && pvc.Annotations[storagehelpers.AnnSelectedNode] == "" {
			continue
		}
		if _, err := c.source(ctx, pvc); !impossible(err) && validate(pvc, class) == nil {
			return true, nil
		}
	}
	snapshots, err := c.dynamic.Resource(snapshotResource).Namespace(claim.Namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) { // not served yet
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for i := range snapshots.Items {
		var s snapshotObject
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(snapshots.Items[i].Object, &s); err != nil {
			return false, err
		}
		if of := s.Spec.Source.Claim; of == nil || *of != claim.Name || s.DeletionTimestamp != nil || s.Status.CreationTime != nil {
			continue
		}
		if class, err := c.snapshotClass(ctx, &s); err == nil && class != nil {
			return true, nil
		}
	}
	return false, nil
}

// pin puts the region that a claim must be in on it: our scheduler plugin sends its Pods there.
func (c *Controller) pin(ctx context.Context, pvc *corev1.PersistentVolumeClaim, r gondola.Region) error {
	if r == "" || pvc.Annotations[translate.RegionAnnotation] == string(r) {
		return nil
	}
	return c.patchClaim(ctx, pvc, map[string]any{"metadata": map[string]any{"annotations": map[string]any{translate.RegionAnnotation: string(r)}}})
}
