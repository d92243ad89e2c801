package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Claim is what a volume of a Pod came to: the PersistentVolumeClaim and what it is bound to, as far as they are there.
type Claim struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume *corev1.PersistentVolume
}

// ref returns the Volume of a claim, or a *MissingError while it is not there and an *UnsupportedError where it never will be.
func (c Claim) ref(pod *corev1.Pod, v *corev1.Volume) (gondola.VolumeRef, error) {
	name, _ := ClaimName(pod, v)
	missing := func(format string, args ...any) error {
		return &MissingError{Volume: v.Name, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case c.Claim == nil:
		return gondola.VolumeRef{}, missing("persistentvolumeclaim %q not found", name)
	case v.Ephemeral != nil && !metav1.IsControlledBy(c.Claim, pod):
		return gondola.VolumeRef{}, missing("PVC %q was not created for pod %q (pod is not owner)", name, pod.Name)
	case c.Claim.DeletionTimestamp != nil:
		return gondola.VolumeRef{}, missing("persistentvolumeclaim %q is being deleted", name)
	case c.Claim.Status.Phase == corev1.ClaimLost:
		return gondola.VolumeRef{}, missing("persistentvolumeclaim %q has lost its PersistentVolume %s", name, c.Claim.Spec.VolumeName)
	case c.Claim.Status.Phase != corev1.ClaimBound || c.Claim.Spec.VolumeName == "":
		return gondola.VolumeRef{}, missing("persistentvolumeclaim %q is not bound to a volume yet", name)
	case c.Volume == nil:
		return gondola.VolumeRef{}, missing("PersistentVolume %s of persistentvolumeclaim %q not found", c.Claim.Spec.VolumeName, name)
	case c.Volume.Spec.ClaimRef == nil || c.Volume.Spec.ClaimRef.UID != c.Claim.UID:
		return gondola.VolumeRef{}, missing("PersistentVolume %s is not that of persistentvolumeclaim %q", c.Volume.Name, name)
	}
	ref, err := PersistentVolumeRef(c.Volume)
	if err != nil {
		return ref, &UnsupportedError{Fields: []string{fmt.Sprintf("volume %s: %v", v.Name, err)}}
	}
	return ref, nil
}

// Volumes returns the platform's Volumes that the Pod mounts, by volume of the Pod, or why they cannot be had, as PodToMachine does.
func Volumes(pod *corev1.Pod, in Inputs) (map[string]gondola.VolumeRef, error) {
	out := map[string]gondola.VolumeRef{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if _, claimed := ClaimName(pod, v); !claimed {
			continue
		}
		ref, err := in.Claims[v.Name].ref(pod, v)
		if err != nil {
			return nil, err
		}
		if app := gondola.AppOfNamespace(in.Cluster, pod.Namespace); ref.App != app {
			return nil, &UnsupportedError{Fields: []string{fmt.Sprintf("volume %s: it is a volume of app %s, and a Pod of this namespace can mount those of app %s only", v.Name, ref.App, app)}}
		}
		out[v.Name] = ref
	}
	return out, nil
}

// claims lists the Volumes that the Machine mounts, in the order of the Pod's volumes; two volumes of one claim are one mount.
func claims(pod *corev1.Pod, in Inputs) ([]gondola.VolumeMount, error) {
	refs, err := Volumes(pod, in)
	if err != nil {
		return nil, err
	}
	var out []gondola.VolumeMount
	at := map[gondola.VolumeID]int{} // index in out
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		ref, claimed := refs[v.Name]
		if !claimed {
			continue
		}
		if first, again := at[ref.ID]; again {
			if !readOnlyClaim(v) && out[first].Gondola.ReadOnly {
				out[first].Gondola = ownership(pod, v)
			}
			continue
		}
		at[ref.ID] = len(out)
		out = append(out, gondola.VolumeMount{Volume: string(ref.ID), Name: v.Name, Gondola: ownership(pod, v)})
	}
	for i := range out {
		if *out[i].Gondola == (gondola.VolumeMountExtension{}) {
			out[i].Gondola = nil
		}
	}
	return out, nil
}

func readOnlyClaim(v *corev1.Volume) bool {
	return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
}

// ownership says to whom the contents of a Volume belong: to the fsGroup, where the Pod has one and may write.
func ownership(pod *corev1.Pod, v *corev1.Volume) *gondola.VolumeMountExtension {
	x := &gondola.VolumeMountExtension{ReadOnly: readOnlyClaim(v)}
	s := pod.Spec.SecurityContext
	if s == nil || s.FSGroup == nil || x.ReadOnly {
		return x
	}
	x.Group, x.GroupChangePolicy = s.FSGroup, "always"
	if p := s.FSGroupChangePolicy; p != nil && *p == corev1.FSGroupChangeOnRootMismatch {
		x.GroupChangePolicy = "on_root_mismatch"
	}
	return x
}

// mountName returns the name by which containers mount a volume of the Pod, and whether they may only read it: of several volumes of one
// claim that is the first.
func mountName(pod *corev1.Pod, name string) (first string, readOnly bool) {
	claim := ""
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == name {
			claim, _ = ClaimName(pod, v)
			readOnly = readOnlyClaim(v)
		}
	}
	if claim == "" {
		return name, false
	}
	for i := range pod.Spec.Volumes {
		if n, _ := ClaimName(pod, &pod.Spec.Volumes[i]); n == claim {
			return pod.Spec.Volumes[i].Name, readOnly
		}
	}
	return name, readOnly
}
