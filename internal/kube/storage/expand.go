package storage

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
	"gondola/internal/kube/translate"
)

// Conditions of a claim that grows; they end with it.
var resizeConditions = []corev1.PersistentVolumeClaimConditionType{corev1.PersistentVolumeClaimResizing,
	corev1.PersistentVolumeClaimFileSystemResizePending, corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError}

// expand grows the Volume of a bound claim that wants to be larger, while it is in use.
func (c *Controller) expand(ctx context.Context, pvc *corev1.PersistentVolumeClaim) (time.Duration, error) {
	have := pvc.Status.Capacity.Storage().Value()
	if pvc.Status.Phase != corev1.ClaimBound || have == 0 || wanted(pvc) <= have {
		return 0, nil
	}
	pv, err := c.volumes.Get(pvc.Spec.VolumeName)
	if err != nil || !ours(pv) || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != pvc.UID {
		return 0, nil // not ours, or not seen yet: its coming brings the claim back
	}
	ref, err := translate.ParseVolumeHandle(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		return c.unexpanded(ctx, pvc, corev1.PersistentVolumeClaimControllerResizeInfeasible, err)
	}
	if condition(pvc, corev1.PersistentVolumeClaimResizing) == nil {
		c.recorder.Eventf(pvc, corev1.EventTypeNormal, "Resizing", "Extending volume %s to %d GiB", ref.ID, gib(wanted(pvc)))
		err := c.resizeStatus(ctx, pvc, corev1.PersistentVolumeClaimControllerResizeInProgress,
			corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimResizing, Status: corev1.ConditionTrue})
		return 0, err // the change brings it back
	}
	done, err := c.extend(ctx, ref, gib(wanted(pvc)))
	switch {
	case errors.Is(err, gondola.ErrCapacity), errors.Is(err, gondola.ErrInvalid), errors.Is(err, gondola.ErrUnsupported), errors.Is(err, gondola.ErrNotFound):
		return c.unexpanded(ctx, pvc, corev1.PersistentVolumeClaimControllerResizeInfeasible, err)
	case err != nil:
		return c.unexpanded(ctx, pvc, corev1.PersistentVolumeClaimControllerResizeInProgress, err)
	}
	size := *resource.NewQuantity(int64(done.Volume.SizeGB)<<30, resource.BinarySI)
	if size.Cmp(*pv.Spec.Capacity.Storage()) != 0 {
		if err := c.patchVolume(ctx, pv, map[string]any{"spec": map[string]any{"capacity": map[string]any{"storage": size.String()}}}); err != nil {
			return 0, err
		}
	}
	if done.NeedsRestart {
		if condition(pvc, corev1.PersistentVolumeClaimFileSystemResizePending) != nil {
			return 10 * time.Second, nil // asking again tells when the Pod has been restarted
		}
		return 10 * time.Second, c.resizeStatus(ctx, pvc, corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimCondition{
			Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue,
			Message: "Waiting for user to (re-)start a pod to finish file system resize of volume."})
	}
	c.recorder.Eventf(pvc, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Volume %s now has %d GiB", ref.ID, done.Volume.SizeGB)
	return 0, c.patchClaim(ctx, pvc, map[string]any{"metadata": map[string]any{"resourceVersion": pvc.ResourceVersion}, "status": map[string]any{
		"capacity":   map[string]any{"storage": size.String()},
		"conditions": others(pvc), "allocatedResources": map[string]any{"storage": size.String()}, "allocatedResourceStatuses": nil,
	}}, "status")
}

// extend makes a Volume at least that large. It may have more already, of a larger wish that was taken back or by somebody else's hand, and never
// shrinks: then that is what the claim gets.
func (c *Controller) extend(ctx context.Context, ref gondola.VolumeRef, sizeGB int) (gondola.ExtendVolumeResponse, error) {
	vol, err := c.cfg.Volumes.Volume(ctx, ref)
	if err != nil {
		return gondola.ExtendVolumeResponse{}, err
	}
	return c.cfg.Volumes.ExtendVolume(ctx, ref, max(sizeGB, vol.SizeGB))
}

// unexpanded tells why a claim does not grow, and tries it again later.
func (c *Controller) unexpanded(ctx context.Context, pvc *corev1.PersistentVolumeClaim, status corev1.ClaimResourceStatus, err error) (time.Duration, error) {
	c.recorder.Eventf(pvc, corev1.EventTypeWarning, "VolumeResizeFailed", "%v", err)
	if was := condition(pvc, corev1.PersistentVolumeClaimControllerResizeError); was == nil || was.Message != err.Error() {
		told := c.resizeStatus(ctx, pvc, status,
			corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimResizing, Status: corev1.ConditionTrue},
			corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimControllerResizeError, Status: corev1.ConditionTrue, Message: err.Error()})
		if told != nil {
			return 0, told
		}
	}
	return 0, laterError{err}
}

// resizeStatus puts the claim's growing into its status. Kubernetes lets a user take a wish back while allocatedResources tells what is tried.
func (c *Controller) resizeStatus(ctx context.Context, pvc *corev1.PersistentVolumeClaim, status corev1.ClaimResourceStatus, conditions ...corev1.PersistentVolumeClaimCondition) error {
	for i := range conditions {
		conditions[i].LastTransitionTime = metav1.Now()
	}
	return c.patchClaim(ctx, pvc, map[string]any{"metadata": map[string]any{"resourceVersion": pvc.ResourceVersion}, "status": map[string]any{
		"conditions": append(others(pvc), conditions...), "allocatedResources": map[string]any{"storage": pvc.Spec.Resources.Requests.Storage().String()},
		"allocatedResourceStatuses": map[string]any{"storage": status},
	}}, "status")
}

// others returns the claim's conditions that are not about growing; never nil.
func others(pvc *corev1.PersistentVolumeClaim) []corev1.PersistentVolumeClaimCondition {
	out := []corev1.PersistentVolumeClaimCondition{}
	for _, have := range pvc.Status.Conditions {
		about := false
		for _, kind := range resizeConditions {
			about = about || have.Type == kind
		}
		if !about {
			out = append(out, have)
		}
	}
	return out
}

func condition(pvc *corev1.PersistentVolumeClaim, kind corev1.PersistentVolumeClaimConditionType) *corev1.PersistentVolumeClaimCondition {
	for i := range pvc.Status.Conditions {
		if pvc.Status.Conditions[i].Type == kind {
			return &pvc.Status.Conditions[i]
		}
	}
	return nil
}
