package storage

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

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
	from, err := c.claims.PersistentVolumeClaims(pvc.Namespace).Get(name)
	if err != nil || from.Status.Phase != corev1.ClaimBound || from.DeletionTimestamp != nil {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "claim %s, of which it is to be a copy, is not bound", name)
	}
	pv, err := c.volumes.Get(from.Spec.VolumeName)
	if err != nil {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "PersistentVolume %s of claim %s is not there", from.Spec.VolumeName, name)
	}
	ref, err := translate.PersistentVolumeRef(pv)
	if err != nil {
		return source{}, err
	}
	if app := c.refOf(pvc).App; ref.App != app {
		return source{}, gondola.Errorf(gondola.ErrUnsupported, "claim %s has a volume of app %s, and a volume of this namespace can be made from those of app %s only", name, ref.App, app)
	}
	if size := from.Status.Capacity.Storage(); wanted(pvc) < size.Value() {
		return source{}, gondola.Errorf(gondola.ErrInvalid, "%s is smaller than claim %s, which has %s", pvc.Spec.Resources.Requests.Storage(), name, size)
	}
	vol, err := c.cfg.Volumes.Volume(ctx, ref)
	if err != nil {
		return source{}, gondola.Errorf(gondola.ErrPrecondition, "volume %s of claim %s: %w", ref.ID, name, err)
	}
	return source{volume: ref.ID, region: vol.Region}, nil
}

// pin puts the region that a claim must be in on it: our scheduler plugin sends its Pods there.
func (c *Controller) pin(ctx context.Context, pvc *corev1.PersistentVolumeClaim, r gondola.Region) error {
	if r == "" || pvc.Annotations[translate.RegionAnnotation] == string(r) {
		return nil
	}
	return c.patchClaim(ctx, pvc, map[string]any{"metadata": map[string]any{"annotations": map[string]any{translate.RegionAnnotation: string(r)}}})
}
