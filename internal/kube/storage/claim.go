package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"gondola"
	"gondola/internal/kube/translate"
)

var everything = labels.Everything()

// provisioning is the finalizer of a claim whose Volume may be there though its PersistentVolume is not yet: who deletes the claim meanwhile
// leaves nothing behind.
const provisioning = Driver + "/provisioning"

// claim brings a claim further: one without a volume gets it, one that wants to be larger grows.
func (c *Controller) claim(ctx context.Context, namespace, name string) (time.Duration, error) {
	pvc, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, err
	case pvc.DeletionTimestamp != nil:
		return 0, c.abandon(ctx, pvc)
	case pvc.Spec.VolumeName == "":
		return c.provision(ctx, pvc)
	case slices.Contains(pvc.Finalizers, provisioning) && pvc.Spec.VolumeName != volumeName(pvc): // somebody has given it another volume
		return 0, c.abandon(ctx, pvc)
	case slices.Contains(pvc.Finalizers, provisioning): // its PersistentVolume answers for the Volume from now on
		return 0, c.dropClaimFinalizer(ctx, pvc)
	}
	return c.expand(ctx, pvc)
}

// abandon undoes what was begun for a claim that was deleted, or bound to another volume, before it had its PersistentVolume.
func (c *Controller) abandon(ctx context.Context, pvc *corev1.PersistentVolumeClaim) error {
	if !slices.Contains(pvc.Finalizers, provisioning) {
		return nil
	}
	_, err := c.client.CoreV1().PersistentVolumes().Get(ctx, volumeName(pvc), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if err = c.deleteVolume(ctx, c.refOf(pvc)); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return c.dropClaimFinalizer(ctx, pvc)
}

// provision makes the Volume and the PersistentVolume of a claim, if it is our turn.
func (c *Controller) provision(ctx context.Context, pvc *corev1.PersistentVolumeClaim) (time.Duration, error) {
	class, err := c.classes.Get(storagehelpers.GetPersistentVolumeClaimClass(pvc))
	if apierrors.IsNotFound(err) || err == nil && class.Provisioner != Driver {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if _, err := c.volumes.Get(volumeName(pvc)); err == nil {
		return 0, nil // made; Kubernetes binds it
	}
	src, err := c.source(ctx, pvc)
	if err == nil {
		err = validate(pvc, class)
	}
	if err != nil {
		return c.refuse(pvc, err)
	}
	if waits(class) && pvc.Annotations[storagehelpers.AnnSelectedNode] == "" {
		return 0, c.pin(ctx, pvc, src.region) // before the scheduler chooses
	}
	if !ourTurn(pvc) {
		return 0, nil
	}
	regions, err := c.regions(pvc, class, src.region, waits(class))
	if err != nil {
		return c.elsewhere(ctx, pvc, err)
	}
	if err := c.addClaimFinalizer(ctx, pvc); err != nil {
		return 0, err
	}
	return c.create(ctx, pvc, class, src, regions)
}

// waits says whether the claims of a class get their Volumes where the scheduler sends their first Pods.
func waits(class *storagev1.StorageClass) bool {
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// create makes the Volume in one of the regions and then its PersistentVolume.
func (c *Controller) create(ctx context.Context, pvc *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, src source, regions []gondola.Region) (time.Duration, error) {
	c.recorder.Eventf(pvc, corev1.EventTypeNormal, "Provisioning", "Provisioning a volume for claim %q", pvc.Namespace+"/"+pvc.Name)
	if err := c.cfg.Apps.EnsureApp(ctx, pvc.Namespace); err != nil {
		return 0, err
	}
	ref, size := c.refOf(pvc), gib(wanted(pvc))
	backup, days := false, 0 // it is Kubernetes that says when a snapshot is taken, and when it goes
	vol, err := c.cfg.Volumes.CreateVolume(ctx, ref.App, gondola.CreateVolumeRequest{
		ID: ref.ID, Name: "pvc_" + strings.ReplaceAll(string(pvc.UID), "-", "")[:24], Region: joined(regions), SizeGB: size,
		AutoBackup: &backup, SnapshotRetention: &days, SnapshotID: src.snapshot, SourceVolume: src.volume,
	})
	switch {
	case errors.Is(err, gondola.ErrCapacity):
		c.noRoom(regions, size)
		return c.elsewhere(ctx, pvc, err)
	case errors.Is(err, gondola.ErrPrecondition): // what it is made from is not where the scheduler chose
		return c.elsewhere(ctx, pvc, err)
	case impossible(err):
		return c.refuse(pvc, err)
	case err != nil:
		c.recorder.Eventf(pvc, corev1.EventTypeWarning, "ProvisioningFailed", "%v", err)
		return 0, laterError{err}
	}
	pv := persistentVolume(pvc, class, ref, &vol)
	_, err = c.client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return 0, fmt.Errorf("persistent volume %s: %w", pv.Name, err)
	}
	c.recorder.Eventf(pvc, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s (%s in region %s)", pv.Name, vol.ID, vol.Region)
	return 0, nil
}

// refuse tells why a claim gets no volume, and looks again soon; only now and then where it never can as it is: what could change that brings it back by
// itself.
func (c *Controller) refuse(pvc *corev1.PersistentVolumeClaim, err error) (time.Duration, error) {
	c.recorder.Eventf(pvc, corev1.EventTypeWarning, "ProvisioningFailed", "%v", err)
	if impossible(err) {
		return 5 * time.Minute, nil
	}
	return 0, laterError{err} // something that it is made from is not ready, or cannot be read now
}

// impossible says whether a claim can never be met as it is.
func impossible(err error) bool {
	return errors.Is(err, gondola.ErrInvalid) || errors.Is(err, gondola.ErrUnsupported)
}

// elsewhere tells why the claim cannot be where it should be, and gives the choice of another node back to the scheduler; without a
// scheduler it is tried again.
func (c *Controller) elsewhere(ctx context.Context, pvc *corev1.PersistentVolumeClaim, err error) (time.Duration, error) {
	c.recorder.Eventf(pvc, corev1.EventTypeWarning, "ProvisioningFailed", "%v", err)
	if err := c.capacity(ctx); err != nil { // before the scheduler looks again
		return 0, err
	}
	if pvc.Annotations[storagehelpers.AnnSelectedNode] == "" {
		return 0, laterError{err}
	}
	patch := map[string]any{"metadata": map[string]any{"resourceVersion": pvc.ResourceVersion, "annotations": map[string]any{storagehelpers.AnnSelectedNode: nil}}}
	return 0, c.patchClaim(ctx, pvc, patch)
}

// ourTurn says whether Kubernetes has found no volume that is there already, and asks us for one.
func ourTurn(pvc *corev1.PersistentVolumeClaim) bool {
	return pvc.Annotations[storagehelpers.AnnStorageProvisioner] == Driver || pvc.Annotations[storagehelpers.AnnBetaStorageProvisioner] == Driver
}

// regions returns where the Volume of a claim may be: where the scheduler chose, or every region of the class.
func (c *Controller) regions(pvc *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, only gondola.Region, chosen bool) ([]gondola.Region, error) {
	var out []gondola.Region
	if chosen {
		node := pvc.Annotations[storagehelpers.AnnSelectedNode]
		region, ok := c.cfg.Regions[node]
		if !ok {
			return nil, gondola.Errorf(gondola.ErrInvalid, "node %s is none of the platform's regions", node)
		}
		out = []gondola.Region{region}
	} else {
		for _, r := range c.allRegions() {
			if allowed(class, r) {
				out = append(out, r)
			}
		}
		if len(out) == 0 {
			return nil, gondola.Errorf(gondola.ErrCapacity, "no region of this cluster is in allowedTopologies of storage class %s", class.Name)
		}
	}
	if only == "" {
		return out, nil
	}
	if !slices.Contains(out, only) {
		return nil, gondola.Errorf(gondola.ErrCapacity, "what it is made from is in region %s, and a copy can be made there only", only)
	}
	return []gondola.Region{only}, nil
}

// allRegions lists the cluster's regions in a fixed order.
func (c *Controller) allRegions() []gondola.Region {
	return slices.Compact(slices.Sorted(maps.Values(c.cfg.Regions)))
}

// allowed says whether a class may use a region; one without topologies may use all.
func allowed(class *storagev1.StorageClass, r gondola.Region) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	return slices.ContainsFunc(class.AllowedTopologies, func(term corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(term.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			return e.Key != corev1.LabelTopologyRegion && e.Key != corev1.LabelTopologyZone || !slices.Contains(e.Values, string(r))
		})
	})
}

// validate says what of a claim or its class cannot be carried out.
func validate(pvc *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	no := func(format string, args ...any) error { return gondola.Errorf(gondola.ErrUnsupported, format, args...) }
	for _, m := range pvc.Spec.AccessModes {
		if m != corev1.ReadWriteOnce && m != corev1.ReadWriteOncePod {
			return no("accessMode %s is not supported: a volume is a disk of one host, for one Pod at a time; use ReadWriteOnce or ReadWriteOncePod", m)
		}
	}
	if m := pvc.Spec.VolumeMode; m != nil && *m == corev1.PersistentVolumeBlock {
		return no("volumeMode Block is not supported: use Filesystem")
	}
	if pvc.Spec.Selector != nil {
		return no("spec.selector is not supported for volumes that are made on demand: leave it out")
	}
	if pvc.Spec.VolumeAttributesClassName != nil && *pvc.Spec.VolumeAttributesClassName != "" {
		return no("volumeAttributesClassName is not supported: leave it out")
	}
	if size := gib(wanted(pvc)); size > gondola.MaxVolumeGB {
		return no("%d GiB is too large: a volume has at most %d GiB", size, gondola.MaxVolumeGB)
	}
	for _, k := range slices.Sorted(maps.Keys(class.Parameters)) {
		if v := class.Parameters[k]; k != "csi.storage.k8s.io/fstype" && k != "fstype" || v != "" && v != gondola.VolumeFSType {
			return no("parameter %s=%q of storage class %s is not supported: volumes have ext4 and no parameters", k, v, class.Name)
		}
	}
	if len(class.MountOptions) > 0 {
		return no("mountOptions of storage class %s are not supported: leave them out", class.Name)
	}
	return nil
}

// persistentVolume describes the Volume of a claim to Kubernetes.
func persistentVolume(pvc *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, ref gondola.VolumeRef, vol *gondola.Volume) *corev1.PersistentVolume {
	mode, reclaim := corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volumeName(pvc), Annotations: map[string]string{storagehelpers.AnnDynamicallyProvisioned: Driver}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(vol.SizeGB)<<30, resource.BinarySI)},
			AccessModes: pvc.Spec.AccessModes, VolumeMode: &mode, PersistentVolumeReclaimPolicy: reclaim, StorageClassName: class.Name,
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: pvc.Namespace, Name: pvc.Name,
				UID: pvc.UID, ResourceVersion: pvc.ResourceVersion},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: Driver, VolumeHandle: translate.VolumeHandle(ref), FSType: gondola.VolumeFSType}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyRegion, Operator: corev1.NodeSelectorOpIn,
					Values: []string{string(vol.Region)}}}}}}},
		},
	}
	if reclaim == corev1.PersistentVolumeReclaimDelete {
		pv.Finalizers = []string{reclaiming}
	}
	return pv
}

func joined(regions []gondola.Region) string {
	var s []string
	for _, r := range regions {
		s = append(s, string(r))
	}
	return strings.Join(s, ",")
}
