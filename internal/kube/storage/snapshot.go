package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"gondola"
)

// The snapshot API of Kubernetes is made of custom resources.
var (
	snapshotResource = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
	contentResource  = snapshotResource.GroupVersion().WithResource("volumesnapshotcontents")
	classResource    = snapshotResource.GroupVersion().WithResource("volumesnapshotclasses")
)

const (
	apiVersion          = "snapshot.storage.k8s.io/v1"
	defaultSnapshot     = "snapshot.storage.kubernetes.io/is-default-class"
	snapshotProtection  = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"
	contentProtection   = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
	deletionPolicyDrops = "Delete"
)

// snapshotObject is what we read of a VolumeSnapshot.
type snapshotObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Source struct {
			Claim   *string `json:"persistentVolumeClaimName"`
			Content *string `json:"volumeSnapshotContentName"`
		} `json:"source"`
		Class *string `json:"volumeSnapshotClassName"`
	} `json:"spec"`
	Status snapshotStatus `json:"status"`
}

type snapshotStatus struct {
	BoundVolumeSnapshotContentName *string            `json:"boundVolumeSnapshotContentName,omitempty"`
	CreationTime                   *metav1.Time       `json:"creationTime,omitempty"`
	ReadyToUse                     *bool              `json:"readyToUse,omitempty"`
	RestoreSize                    *resource.Quantity `json:"restoreSize,omitempty"`
	Error                          *snapshotError     `json:"error,omitempty"`
}

type snapshotError struct {
	Time    *metav1.Time `json:"time,omitempty"`
	Message *string      `json:"message,omitempty"`
}

// ref is the object for Events.
func (s *snapshotObject) ref() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: apiVersion, Kind: "VolumeSnapshot", Namespace: s.Namespace, Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion}
}

// contentName is the name of the VolumeSnapshotContent that we make for it.
func (s *snapshotObject) contentName() string {
	if n := s.Spec.Source.Content; n != nil {
		return *n
	}
	return "snapcontent-" + string(s.UID)
}

// read reads one custom resource into v.
func (c *Controller) read(ctx context.Context, r schema.GroupVersionResource, namespace, name string, v any) error {
	o, err := c.dynamic.Resource(r).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, v)
}

// patchCustom changes a custom resource, or its status.
func (c *Controller) patchCustom(ctx context.Context, r schema.GroupVersionResource, namespace, name string, patch map[string]any, subresources ...string) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = c.dynamic.Resource(r).Namespace(namespace).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{}, subresources...)
	return changed(err, "%s %s", r.Resource, name)
}

// snapshotItems are a VolumeSnapshot, its content, and the claims that wait for it.
func (c *Controller) snapshotItems(obj any) []item {
	o := obj.(*unstructured.Unstructured)
	out := []item{{kindSnapshot, o.GetNamespace(), o.GetName()}}
	if n, ok, _ := unstructured.NestedString(o.Object, "status", "boundVolumeSnapshotContentName"); ok {
		out = append(out, item{kindContent, "", n})
	}
	claims, _ := c.claims.PersistentVolumeClaims(o.GetNamespace()).List(everything)
	for _, pvc := range claims {
		if pvc.Spec.VolumeName == "" && madeFrom(pvc, o.GetName()) {
			out = append(out, item{kindClaim, pvc.Namespace, pvc.Name})
		}
	}
	return out
}

// madeFrom says whether a claim is to be made from a VolumeSnapshot.
func madeFrom(pvc *corev1.PersistentVolumeClaim, snapshot string) bool {
	d := pvc.Spec.DataSource
	return d != nil && d.Kind == "VolumeSnapshot" && d.Name == snapshot && d.APIGroup != nil && *d.APIGroup == snapshotResource.Group
}

// snapshot brings a VolumeSnapshot further: it gets its content, or the one that it names, and tells what that tells.
func (c *Controller) snapshot(ctx context.Context, namespace, name string) (time.Duration, error) {
	var s snapshotObject
	err := c.read(ctx, snapshotResource, namespace, name, &s)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var content *contentObject
	var found contentObject
	err = c.read(ctx, contentResource, "", s.contentName(), &found)
	if err == nil {
		content = &found
	} else if !apierrors.IsNotFound(err) {
		return 0, err
	}
	if content != nil && content.Spec.Driver != Driver {
		return 0, nil // another driver's
	}
	if s.DeletionTimestamp != nil {
		return c.dropSnapshot(ctx, &s, content)
	}
	if content == nil {
		if s.Spec.Source.Content != nil {
			return 0, c.failSnapshot(ctx, &s, gondola.Errorf(gondola.ErrNotFound, "VolumeSnapshotContent %s is not there", *s.Spec.Source.Content))
		}
		return c.newContent(ctx, &s)
	}
	if err := c.bind(ctx, &s, content); err != nil {
		return 0, err
	}
	return 0, c.tellSnapshot(ctx, &s, content)
}

// newContent makes the VolumeSnapshotContent of a VolumeSnapshot of a claim, if its class is ours. What cannot be told to be ours is left alone.
func (c *Controller) newContent(ctx context.Context, s *snapshotObject) (time.Duration, error) {
	class, err := c.snapshotClass(ctx, s)
	if err != nil {
		return 0, c.failSnapshot(ctx, s, err)
	}
	if class == nil || s.Spec.Source.Claim == nil {
		return 0, nil
	}
	if bound := s.Status.BoundVolumeSnapshotContentName; bound != nil {
		return 0, c.failSnapshot(ctx, s, gondola.Errorf(gondola.ErrNotFound, "VolumeSnapshotContent %s is gone, and the snapshot with it: delete this VolumeSnapshot", *bound))
	}
	claim := *s.Spec.Source.Claim
	pv, err := c.volumeOf(ctx, s.Namespace, claim)
	if err != nil {
		return 0, c.failSnapshot(ctx, s, err)
	}
	if !ours(pv) {
		return 0, c.failSnapshot(ctx, s, gondola.Errorf(gondola.ErrInvalid, "claim %s has no volume of %s", claim, Driver))
	}
	if err := c.protect(ctx, snapshotResource, &s.ObjectMeta, snapshotProtection); err != nil {
		return 0, err
	}
	o := map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshotContent",
		"metadata": map[string]any{"name": s.contentName(), "finalizers": []any{contentProtection}},
		"spec": map[string]any{"deletionPolicy": class.DeletionPolicy, "driver": Driver, "volumeSnapshotClassName": class.Name,
			"sourceVolumeMode": "Filesystem", "source": map[string]any{"volumeHandle": pv.Spec.CSI.VolumeHandle},
			"volumeSnapshotRef": map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshot", "namespace": s.Namespace, "name": s.Name,
				"uid": string(s.UID), "resourceVersion": s.ResourceVersion}}}
	_, err = c.dynamic.Resource(contentResource).Create(ctx, &unstructured.Unstructured{Object: o}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return 0, fmt.Errorf("content of snapshot %s/%s: %w", s.Namespace, s.Name, err)
	}
	c.recorder.Eventf(s.ref(), corev1.EventTypeNormal, "CreatingSnapshot", "Taking a snapshot of claim %s", claim)
	if s.Spec.Class == nil {
		return 0, c.patchCustom(ctx, snapshotResource, s.Namespace, s.Name, map[string]any{"spec": map[string]any{"volumeSnapshotClassName": class.Name}})
	}
	return 0, nil
}

// snapshotClassObject is what we read of a VolumeSnapshotClass.
type snapshotClassObject struct {
	metav1.ObjectMeta `json:"metadata"`
	Driver            string `json:"driver"`
	DeletionPolicy    string `json:"deletionPolicy"`
}

// snapshotClass returns the class of a VolumeSnapshot, the default one if it names none; nil: it is another driver's.
func (c *Controller) snapshotClass(ctx context.Context, s *snapshotObject) (*snapshotClassObject, error) {
	if n := s.Spec.Class; n != nil && *n != "" {
		var class snapshotClassObject
		if err := c.read(ctx, classResource, "", *n, &class); err != nil {
			return nil, gondola.Errorf(gondola.ErrNotFound, "VolumeSnapshotClass %s: %w", *n, err)
		}
		if class.Driver != Driver {
			return nil, nil
		}
		return &class, nil
	}
	list, err := c.dynamic.Resource(classResource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		var class snapshotClassObject
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &class); err != nil {
			return nil, err
		}
		if class.Driver == Driver && class.Annotations[defaultSnapshot] == "true" {
			return &class, nil
		}
	}
	return nil, gondola.Errorf(gondola.ErrNotFound, "no VolumeSnapshotClass is the default one: name one in spec.volumeSnapshotClassName")
}

// bind makes a content that was there before its VolumeSnapshot that one's own.
func (c *Controller) bind(ctx context.Context, s *snapshotObject, content *contentObject) error {
	r := content.Spec.VolumeSnapshotRef
	if r.Namespace != s.Namespace || r.Name != s.Name || r.UID != "" && r.UID != s.UID {
		return c.failSnapshot(ctx, s, gondola.Errorf(gondola.ErrConflict, "VolumeSnapshotContent %s is that of VolumeSnapshot %s/%s %s", content.Name, r.Namespace, r.Name, r.UID))
	}
	if err := c.protect(ctx, snapshotResource, &s.ObjectMeta, snapshotProtection); err != nil {
		return err
	}
	if r.UID == s.UID {
		return nil
	}
	return c.patchCustom(ctx, contentResource, "", content.Name, map[string]any{"spec": map[string]any{"volumeSnapshotRef": map[string]any{"uid": string(s.UID)}}})
}

// tellSnapshot brings the status of a VolumeSnapshot in line with its content's.
func (c *Controller) tellSnapshot(ctx context.Context, s *snapshotObject, content *contentObject) error {
	ready := content.Status.ReadyToUse != nil && *content.Status.ReadyToUse
	status := snapshotStatus{BoundVolumeSnapshotContentName: &content.Name, ReadyToUse: &ready, Error: content.Status.Error}
	if n := content.Status.CreationTime; n != nil {
		t := metav1.NewTime(time.Unix(0, *n)).Rfc3339Copy()
		status.CreationTime = &t
	}
	if n := content.Status.RestoreSize; n != nil {
		status.RestoreSize = resource.NewQuantity(*n, resource.BinarySI)
	}
	before, _ := json.Marshal(s.Status)
	after, err := json.Marshal(status)
	if err != nil || string(before) == string(after) {
		return err
	}
	patch := map[string]any{"boundVolumeSnapshotContentName": content.Name, "readyToUse": ready, "error": content.Status.Error}
	if status.CreationTime != nil {
		patch["creationTime"] = status.CreationTime
	}
	if status.RestoreSize != nil {
		patch["restoreSize"] = status.RestoreSize
	}
	if err := c.patchCustom(ctx, snapshotResource, s.Namespace, s.Name, map[string]any{"status": patch}, "status"); err != nil {
		return err
	}
	if ready && (s.Status.ReadyToUse == nil || !*s.Status.ReadyToUse) {
		c.recorder.Eventf(s.ref(), corev1.EventTypeNormal, "SnapshotReady", "Snapshot %s/%s is ready to use.", s.Namespace, s.Name)
	}
	return nil
}

// failSnapshot tells why a VolumeSnapshot is not made, and asks for another try unless it never can be.
func (c *Controller) failSnapshot(ctx context.Context, s *snapshotObject, why error) error {
	message := why.Error()
	c.recorder.Event(s.ref(), corev1.EventTypeWarning, "SnapshotFailed", message)
	if e := s.Status.Error; e == nil || e.Message == nil || *e.Message != message {
		patch := map[string]any{"status": map[string]any{"readyToUse": false, "error": map[string]any{"time": metav1.Now(), "message": message}}}
		if err := c.patchCustom(ctx, snapshotResource, s.Namespace, s.Name, patch, "status"); err != nil {
			return err
		}
	}
	return laterError{why}
}

// dropSnapshot lets a VolumeSnapshot go, its content before it where the policy is Delete.
func (c *Controller) dropSnapshot(ctx context.Context, s *snapshotObject, content *contentObject) (time.Duration, error) {
	if !slices.Contains(s.Finalizers, snapshotProtection) {
		return 0, nil
	}
	claims, err := c.claims.PersistentVolumeClaims(s.Namespace).List(everything)
	if err != nil {
		return 0, err
	}
	for _, pvc := range claims {
		if slices.Contains(pvc.Finalizers, provisioning) && madeFrom(pvc, s.Name) && pvc.DeletionTimestamp == nil {
			return 2 * time.Second, nil // it is being read from
		}
	}
	if content != nil && content.Spec.VolumeSnapshotRef.UID == s.UID && content.Spec.DeletionPolicy == deletionPolicyDrops {
		if content.DeletionTimestamp == nil {
			err := c.dynamic.Resource(contentResource).Delete(ctx, content.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &content.UID}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return 0, err
			}
		}
		c.queue.Add(item{kindContent, "", content.Name})
		return 0, nil // its end brings this back
	}
	return 0, c.patchCustom(ctx, snapshotResource, s.Namespace, s.Name, finalizers(&s.ObjectMeta, without(s.Finalizers, snapshotProtection)))
}

// protect puts a finalizer on a custom resource that lacks it.
func (c *Controller) protect(ctx context.Context, r schema.GroupVersionResource, o *metav1.ObjectMeta, name string) error {
	if slices.Contains(o.Finalizers, name) {
		return nil
	}
	return c.patchCustom(ctx, r, o.Namespace, o.Name, finalizers(o, with(o.Finalizers, name)))
}
