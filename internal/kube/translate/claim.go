package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"gondola"
)

// VolumeDriver is the name under which Kubernetes knows our Volumes: of the CSIDriver object, as provisioner of StorageClasses and as driver
// of PersistentVolumes and VolumeSnapshots.
const VolumeDriver = "volumes.gondola.local"

// VolumeHandle is how a PersistentVolume names a Volume: "<app>/<volume>".
func VolumeHandle(ref gondola.VolumeRef) string { return string(ref.App) + "/" + string(ref.ID) }

// ParseVolumeHandle reads what VolumeHandle wrote; ErrInvalid for anything else.
func ParseVolumeHandle(handle string) (gondola.VolumeRef, error) {
	app, id, ok := strings.Cut(handle, "/")
	if !ok || app == "" || id == "" || strings.Contains(id, "/") {
		return gondola.VolumeRef{}, gondola.Errorf(gondola.ErrInvalid, "volumeHandle %q is none of Gondola's: write <app>/<volume>, such as main-default/vol_…", handle)
	}
	return gondola.VolumeRef{App: gondola.AppName(app), ID: gondola.VolumeID(id)}, nil
}

// ClaimName returns the name of the PersistentVolumeClaim behind a volume of a Pod; false for one without. A generic ephemeral volume has the
// claim that the controller manager makes for it, whose owner must be the Pod.
func ClaimName(pod *corev1.Pod, v *corev1.Volume) (name string, ok bool) {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName, true
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name, true
	}
	return "", false
}

// PersistentVolumeRef returns the Volume that a PersistentVolume stands for; the error is a sentence that says why it is none of ours.
func PersistentVolumeRef(pv *corev1.PersistentVolume) (gondola.VolumeRef, error) {
	csi := pv.Spec.CSI
	if csi == nil {
		return gondola.VolumeRef{}, gondola.Errorf(gondola.ErrUnsupported,
			"PersistentVolume %s has the source %s, which is not supported: use a StorageClass whose provisioner is %s", pv.Name, pvSource(pv), VolumeDriver)
	}
	if csi.Driver != VolumeDriver {
		return gondola.VolumeRef{}, gondola.Errorf(gondola.ErrUnsupported,
			"PersistentVolume %s is of the CSI driver %s, which is not supported: use a StorageClass whose provisioner is %s", pv.Name, csi.Driver, VolumeDriver)
	}
	if m := pv.Spec.VolumeMode; m != nil && *m == corev1.PersistentVolumeBlock {
		return gondola.VolumeRef{}, gondola.Errorf(gondola.ErrUnsupported, "PersistentVolume %s has volumeMode Block, which is not supported: use Filesystem", pv.Name)
	}
	ref, err := ParseVolumeHandle(csi.VolumeHandle)
	if err != nil {
		return ref, fmt.Errorf("PersistentVolume %s: %w", pv.Name, err)
	}
	return ref, nil
}

// pvSource is the name that the source of a PersistentVolume has in the API.
func pvSource(pv *corev1.PersistentVolume) string {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pv.Spec.PersistentVolumeSource)
	if err != nil || len(fields) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
}

// RegionAnnotation is on a PersistentVolumeClaim that can be had in one region only.
const RegionAnnotation = VolumeDriver + "/region"
