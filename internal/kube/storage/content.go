package storage

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"gondola"
	"gondola/internal/kube/translate"
)

// contentObject is what we read of a VolumeSnapshotContent.
type contentObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		DeletionPolicy string `json:"deletionPolicy"`
		Driver         string `json:"driver"`
		Source         struct {
			VolumeHandle   *string `json:"volumeHandle"`
			SnapshotHandle *string `json:"snapshotHandle"`
		} `json:"source"`
		VolumeSnapshotRef corev1.ObjectReference `json:"volumeSnapshotRef"`
	} `json:"spec"`
	Status struct {
		SnapshotHandle *string        `json:"snapshotHandle"`
		CreationTime   *int64         `json:"creationTime"` // nanoseconds since 1970
		RestoreSize    *int64         `json:"restoreSize"`
		ReadyToUse     *bool          `json:"readyToUse"`
		Error          *snapshotError `json:"error"`
	} `json:"status"`
}

func (o *contentObject) ref() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: apiVersion, Kind: "VolumeSnapshotContent", Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
}

// contentItems are a VolumeSnapshotContent and its VolumeSnapshot.
func (c *Controller) contentItems(obj any) []item {
	o := obj.(*unstructured.Unstructured)
	out := []item{{kindContent, "", o.GetName()}}
	namespace, _, _ := unstructured.NestedString(o.Object, "spec", "volumeSnapshotRef", "namespace")
	if name, ok, _ := unstructured.NestedString(o.Object, "spec", "volumeSnapshotRef", "name"); ok {
		out = append(out, item{kindSnapshot, namespace, name})
	}
	return out
}

// content takes the snapshot of a VolumeSnapshotContent, or finds the one that it names, tells when that is gone, and deletes it in the end.
func (c *Controller) content(ctx context.Context, name string) (time.Duration, error) {
	var o contentObject
	err := c.read(ctx, contentResource, "", name, &o)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil || o.Spec.Driver != Driver {
		return 0, err
	}
	if o.DeletionTimestamp != nil {
		return 0, c.dropContent(ctx, &o)
	}
	if err := c.protect(ctx, contentResource, &o.ObjectMeta, contentProtection); err != nil {
		return 0, err
	}
	ref, snap, err := c.take(ctx, &o)
	was, ready := o.Status.ReadyToUse != nil && *o.Status.ReadyToUse, err == nil && snap.Status == "created"
	if was && (ready || err != nil && !errors.Is(err, gondola.ErrNotFound)) {
		return 0, nil // as it was, or its worker does not answer: nothing to tell
	}
	if err != nil {
		if o.Status.SnapshotHandle != nil && errors.Is(err, gondola.ErrNotFound) {
			err = gondola.Errorf(gondola.ErrNotFound, "snapshot %s is not on the platform any more, and its data with it: delete its VolumeSnapshot (%w)", ref.id, err)
		}
		c.recorder.Eventf(o.ref(), corev1.EventTypeWarning, "SnapshotFailed", "%v", err)
		if e := o.Status.Error; e == nil || e.Message == nil || *e.Message != err.Error() {
			patch := map[string]any{"readyToUse": false, "error": map[string]any{"time": metav1.Now(), "message": err.Error()}}
			if told := c.patchCustom(ctx, contentResource, "", name, map[string]any{"status": patch}, "status"); told != nil {
				return 0, told
			}
		}
		return 0, laterError{err}
	}
	patch := map[string]any{"snapshotHandle": ref.handle(), "creationTime": snap.CreatedAt.UnixNano(), "restoreSize": snap.VolumeSize, "readyToUse": ready, "error": nil}
	if err := c.patchCustom(ctx, contentResource, "", name, map[string]any{"status": patch}, "status"); err != nil {
		return 0, err
	}
	if !ready {
		return time.Second, nil
	}
	return 0, nil
}

// take takes the snapshot, or finds it. One that was taken is never taken again: it would be of another moment.
func (c *Controller) take(ctx context.Context, o *contentObject) (snapshotRef, gondola.VolumeSnapshot, error) {
	if h := cmp.Or(o.Status.SnapshotHandle, o.Spec.Source.SnapshotHandle); h != nil {
		ref, err := parseSnapshotHandle(*h)
		if err != nil {
			return ref, gondola.VolumeSnapshot{}, err
		}
		snap, err := c.find(ctx, ref)
		return ref, snap, err
	}
	if o.Spec.Source.VolumeHandle == nil {
		return snapshotRef{}, gondola.VolumeSnapshot{}, gondola.Errorf(gondola.ErrInvalid, "VolumeSnapshotContent %s has no source", o.Name)
	}
	volume, err := translate.ParseVolumeHandle(*o.Spec.Source.VolumeHandle)
	if err != nil {
		return snapshotRef{}, gondola.VolumeSnapshot{}, err
	}
	ref := snapshotRef{volume: volume, id: snapshotID(o)}
	snap, err := c.cfg.Volumes.SnapshotVolume(ctx, volume, ref.id)
	return ref, snap, err
}

// find returns a snapshot that was taken; ErrNotFound: the platform does not have it, or not any more.
func (c *Controller) find(ctx context.Context, ref snapshotRef) (gondola.VolumeSnapshot, error) {
	list, err := c.cfg.Volumes.ListSnapshots(ctx, ref.volume)
	if err != nil {
		return gondola.VolumeSnapshot{}, err
	}
	for _, s := range list {
		if s.ID == ref.id {
			return s, nil
		}
	}
	return gondola.VolumeSnapshot{}, gondola.Errorf(gondola.ErrNotFound, "volume %s has no snapshot %s", ref.volume.ID, ref.id)
}

func snapshotID(o *contentObject) string { return "vs_" + idOf(o.UID) }

// dropContent deletes the snapshot where the policy says so, once its VolumeSnapshot is gone or going.
func (c *Controller) dropContent(ctx context.Context, o *contentObject) error {
	if !slices.Contains(o.Finalizers, contentProtection) {
		return nil
	}
	r := o.Spec.VolumeSnapshotRef
	if r.UID != "" {
		var s snapshotObject
		err := c.read(ctx, snapshotResource, r.Namespace, r.Name, &s)
		if err == nil && s.UID == r.UID && s.DeletionTimestamp == nil {
			return nil // still wanted: its end brings this back
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if o.Spec.DeletionPolicy == deletionPolicyDrops {
		if err := c.deleteSnapshot(ctx, o); err != nil {
			c.recorder.Eventf(o.ref(), corev1.EventTypeWarning, "SnapshotDeleteError", "%v", err)
			return laterError{err}
		}
	}
	return c.patchCustom(ctx, contentResource, "", o.Name, finalizers(&o.ObjectMeta, without(o.Finalizers, contentProtection)))
}

// deleteSnapshot deletes what a content stands for, also where nobody got to write down its handle, and the App with its last where the namespace is
// gone.
func (c *Controller) deleteSnapshot(ctx context.Context, o *contentObject) error {
	var ref snapshotRef
	var err error
	switch {
	case o.Status.SnapshotHandle != nil:
		ref, err = parseSnapshotHandle(*o.Status.SnapshotHandle)
	case o.Spec.Source.SnapshotHandle != nil:
		ref, err = parseSnapshotHandle(*o.Spec.Source.SnapshotHandle)
	case o.Spec.Source.VolumeHandle != nil:
		ref.id = snapshotID(o)
		ref.volume, err = translate.ParseVolumeHandle(*o.Spec.Source.VolumeHandle)
	}
	if err != nil || ref.id == "" {
		return nil // never was one of ours
	}
	if err := c.cfg.Volumes.DeleteSnapshot(ctx, ref.volume, ref.id); err != nil && !errors.Is(err, gondola.ErrNotFound) {
		return err
	}
	return c.cfg.Apps.DropApp(ctx, o.Spec.VolumeSnapshotRef.Namespace)
}
