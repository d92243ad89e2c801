package storage

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"gondola"
	"gondola/internal/kube/translate"
)

// idOf derives 16 lower-case letters and digits from a UID, so that what belongs to an object is found again.
func idOf(uid types.UID) string {
	sum := sha256.Sum256([]byte(uid))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}

// refOf names the Volume of a claim.
func (c *Controller) refOf(pvc *corev1.PersistentVolumeClaim) gondola.VolumeRef {
	return gondola.VolumeRef{App: gondola.AppOfNamespace(c.cfg.Cluster, pvc.Namespace), ID: gondola.VolumeID("vol_" + idOf(pvc.UID))}
}

// volumeName names the PersistentVolume of a claim.
func volumeName(pvc *corev1.PersistentVolumeClaim) string { return "pvc-" + string(pvc.UID) }

// ours says whether a PersistentVolume is of our driver.
func ours(pv *corev1.PersistentVolume) bool {
	return pv.Spec.CSI != nil && pv.Spec.CSI.Driver == Driver
}

// snapshotRef names a snapshot of a Volume.
type snapshotRef struct {
	volume gondola.VolumeRef
	id     string
}

// handle is how a VolumeSnapshotContent names a snapshot: "<app>/<volume>/<snapshot>".
func (r snapshotRef) handle() string { return translate.VolumeHandle(r.volume) + "/" + r.id }

// parseSnapshotHandle reads what handle wrote; ErrInvalid for anything else.
func parseSnapshotHandle(handle string) (snapshotRef, error) {
	i := strings.LastIndex(handle, "/")
	if i < 0 || i == len(handle)-1 {
		return snapshotRef{}, gondola.Errorf(gondola.ErrInvalid, "snapshotHandle %q is none of Gondola's: write <app>/<volume>/<snapshot>", handle)
	}
	ref, err := translate.ParseVolumeHandle(handle[:i])
	if err != nil {
		return snapshotRef{}, gondola.Errorf(gondola.ErrInvalid, "snapshotHandle %q is none of Gondola's: write <app>/<volume>/<snapshot>", handle)
	}
	return snapshotRef{volume: ref, id: handle[i+1:]}, nil
}

// wanted is how many bytes a claim asks for.
func wanted(pvc *corev1.PersistentVolumeClaim) int64 {
	return pvc.Spec.Resources.Requests.Storage().Value()
}

// gib rounds bytes up to GiB, at least one.
func gib(bytes int64) int { return int(max((bytes+1<<30-1)>>30, 1)) }
