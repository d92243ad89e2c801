package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"gondola"
	"gondola/internal/kube/translate"
)

// followClaims keeps claims and their volumes at hand and wakes Pods that wait for one. A node may read only one at a time of those, and not
// watch them, so this is done as the provider.
func (e *engine) followClaims(factory informers.SharedInformerFactory) cache.InformerSynced {
	claims, volumes := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes()
	e.pvcs, e.pvs = claims.Lister(), volumes.Lister()
	claim := func(obj any) {
		if c, ok := obj.(*corev1.PersistentVolumeClaim); ok {
			e.wakeClaimants(c.Namespace, c.Name)
		}
	}
	volume := func(obj any) {
		if v, ok := obj.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef != nil {
			e.wakeClaimants(v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
		}
	}
	_, _ = claims.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: claim, UpdateFunc: func(_, obj any) { claim(obj) }})
	_, _ = volumes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: volume, UpdateFunc: func(_, obj any) { volume(obj) }})
	return func() bool { return claims.Informer().HasSynced() && volumes.Informer().HasSynced() }
}

// wakeClaimants looks again at the Pods that name a claim and have no Machine yet.
func (e *engine) wakeClaimants(namespace, claim string) {
	e.mu.Lock()
	var uids []types.UID
	for uid, t := range e.pods {
		if t.pod == nil || t.machine != nil || t.pod.Namespace != namespace {
			continue
		}
		if slices.ContainsFunc(t.pod.Spec.Volumes, func(v corev1.Volume) bool { n, _ := translate.ClaimName(t.pod, &v); return n == claim }) {
			uids = append(uids, uid)
		}
	}
	e.mu.Unlock()
	for _, uid := range uids {
		e.queue.Add(uid)
	}
}

// claims gathers what the Pod's volumes claim. What is not as it should be is asked of the API server itself: the Pod may have been quicker
// than our watches.
func (e *engine) claims(ctx context.Context, pod *corev1.Pod) (map[string]translate.Claim, error) {
	out := map[string]translate.Claim{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name, ok := translate.ClaimName(pod, v)
		if !ok {
			continue
		}
		var c translate.Claim
		pvc, err := e.pvcs.PersistentVolumeClaims(pod.Namespace).Get(name)
		if err != nil || pvc.Status.Phase != corev1.ClaimBound {
			pvc, err = e.admin.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("claim %s: %w", name, err)
		}
		if err == nil {
			c.Claim = pvc
		}
		if c.Claim != nil && c.Claim.Spec.VolumeName != "" {
			pv, err := e.pvs.Get(c.Claim.Spec.VolumeName)
			if err != nil {
				pv, err = e.admin.CoreV1().PersistentVolumes().Get(ctx, c.Claim.Spec.VolumeName, metav1.GetOptions{})
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("persistent volume %s: %w", c.Claim.Spec.VolumeName, err)
			}
			if err == nil {
				c.Volume = pv
			}
		}
		out[v.Name] = c
	}
	return out, nil
}

// occupied says whether a Volume that the Pod mounts cannot be had now, tells why, and returns when to look again; zero: all are free.
func (e *engine) occupied(ctx context.Context, n *node, pod *corev1.Pod, w *work, app gondola.AppName, mounts []gondola.VolumeMount) (time.Duration, error) {
	for _, m := range mounts {
		vol, err := e.cfg.Platform.Volume(ctx, gondola.VolumeRef{App: app, ID: gondola.VolumeID(m.Volume)})
		var reason, message string
		switch {
		case errors.Is(err, gondola.ErrNotFound):
			reason = "FailedMount"
			message = fmt.Sprintf("MountVolume.SetUp failed for volume %q : volume %s is not on the platform any more: delete the claim and make another", m.Name, m.Volume)
		case err != nil:
			return 0, fmt.Errorf("volume %s of pod %s/%s: %w", m.Volume, pod.Namespace, pod.Name, err)
		case vol.AttachedMachine == nil || e.waitOn(pod.UID, *vol.AttachedMachine):
			continue
		default:
			holder, over := e.holder(*vol.AttachedMachine)
			if over != nil { // its Pod has ended: it has no use for the Volume, and only its logs are lost
				e.log.Info("destroying the machine of a pod that has ended: another pod wants its volume", "machine", over.ID, "volume", m.Volume)
				return time.Second, e.destroy(ctx, over)
			}
			reason = "FailedAttachVolume"
			message = fmt.Sprintf("Multi-Attach error for volume %q : volume %s is already used by %s, and one Pod has it at a time", m.Name, m.Volume, holder)
		}
		e.eventf(n, pod, "", corev1.EventTypeWarning, reason, "%s", message)
		w.waiting = nil
		w.tries++
		return backoff(w.tries, 500*time.Millisecond, 10*time.Second), e.report(ctx, n, pod, nil, translate.Observed{})
	}
	return 0, nil
}

// waitOn notes that a Pod waits for the end of a Machine. It returns true where that is the Pod's own.
func (e *engine) waitOn(uid types.UID, id gondola.MachineID) (own bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, ok := e.pods[uid]
	if !ok {
		return false
	}
	if t.machine != nil && t.machine.ID == id {
		return true
	}
	t.waitsOn = id
	return false
}

// waitingLocked returns the Pods that wait for the end of a Machine; they wait no longer.
func (e *engine) waitingLocked(id gondola.MachineID) []types.UID {
	var out []types.UID
	for uid, t := range e.pods {
		if t.waitsOn == id {
			t.waitsOn = ""
			out = append(out, uid)
		}
	}
	return out
}

// holder names the Pod of a Machine that has a Volume. over is the Machine where its Pod has ended and only stands for its logs.
func (e *engine) holder(id gondola.MachineID) (name string, over *gondola.Machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.pods {
		if t.machine == nil || t.machine.ID != id {
			continue
		}
		m := t.machine
		if p := t.pod; p != nil && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed) && !running(m) {
			over = m
		}
		return "pod " + strings.Trim(m.Config.Metadata[translate.MetadataNamespace]+"/"+m.Config.Metadata[translate.MetadataPod], "/"), over
	}
	return "machine " + string(id), nil
}

// vacating waits until the Machine of a Pod that is being deleted has given its Volumes back, so that the Pod's successor finds them free.
func (e *engine) vacating(ctx context.Context, pod *corev1.Pod, m *gondola.Machine) (time.Duration, error) {
	if m == nil || m.State == gondola.Destroyed || m.Config == nil || len(m.Config.Mounts) == 0 {
		return 0, nil
	}
	now, err := e.cfg.Platform.Get(ctx, m.Ref())
	switch {
	case errors.Is(err, gondola.ErrNotFound):
		e.gone(pod.UID, m)
		return time.Second, nil
	case err != nil:
		return 0, fmt.Errorf("machine %s of pod %s/%s: %w", m.ID, pod.Namespace, pod.Name, err)
	case now.State != m.State:
		e.putMachine(&now)
	}
	return 2 * time.Second, nil // its end is told before
}
