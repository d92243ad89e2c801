package provider

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"gondola"
)

// notice is a status that was sent out for a Pod.
type notice struct {
	pod *corev1.Pod
	at  time.Time
}

// overdue is how long the API may take to show a status that was sent out, before it is sent again.
const overdue = 5 * time.Second

// NotifyPods calls notify with each Pod whose status changes, until ctx ends. The library calls it once, before anything else.
func (l *Library) NotifyPods(ctx context.Context, notify func(*corev1.Pod)) {
	context.AfterFunc(ctx, l.due.ShutDown)
	go func() {
		for {
			uid, quit := l.due.Get()
			if quit {
				return
			}
			l.mu.Lock()
			pod := l.notices[uid].pod
			l.mu.Unlock()
			// The library looks Pods up by name: one that has another UID by now, or is gone, is nobody's.
			if pod != nil {
				if listed := l.listed(pod.Namespace, pod.Name); listed != nil && listed.UID == uid {
					notify(pod)
				}
			}
			l.due.Done(uid)
		}
	}()
}

// send has a Pod's status told. The Pod keeps the newest metadata, because the library writes it whole.
func (l *Library) send(pod *corev1.Pod, status corev1.PodStatus) *corev1.Pod {
	told := pod.DeepCopy()
	told.Status = status
	l.mu.Lock()
	l.notices[pod.UID] = notice{told, time.Now()}
	l.mu.Unlock()
	l.due.Add(pod.UID)
	return told
}

// fresh returns the Pod as the lister has it where that is newer: labels, and conditions and gates that others set. A status that was sent out long
// ago and has not arrived (the library gives up at some point) is forgotten, so that it is sent again.
func (l *Library) fresh(pod *corev1.Pod) *corev1.Pod {
	listed := l.listed(pod.Namespace, pod.Name)
	if listed == nil || listed.UID != pod.UID {
		return pod
	}
	l.mu.Lock()
	sent, waits := l.notices[pod.UID]
	if waits && equality.Semantic.DeepEqual(sent.pod.Status, listed.Status) {
		delete(l.notices, pod.UID)
		waits = false
	}
	l.mu.Unlock()
	switch {
	case waits && time.Since(sent.at) < overdue:
		merged := listed.DeepCopy()
		merged.Status = *sent.pod.Status.DeepCopy()
		for _, c := range listed.Status.Conditions { // those of others
			if !hasCondition(&merged.Status, c.Type) {
				merged.Status.Conditions = append(merged.Status.Conditions, c)
			}
		}
		return merged
	default:
		return listed.DeepCopy()
	}
}

func hasCondition(s *corev1.PodStatus, kind corev1.PodConditionType) bool {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return true
		}
	}
	return false
}

// unheard says whether the API does not show yet what was told of the Pod.
func (l *Library) unheard(pod *corev1.Pod) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent, waits := l.notices[pod.UID]
	listed := l.listed(pod.Namespace, pod.Name)
	return waits && listed != nil && listed.UID == pod.UID && time.Since(sent.at) < overdue && !equality.Semantic.DeepEqual(sent.pod.Status, listed.Status)
}

// watch is when to look at a Pod again because nobody says that its API object has changed: conditions of others count for its readiness.
func (l *Library) watch(pod *corev1.Pod, m *gondola.Machine) time.Duration {
	l.mu.Lock()
	_, waits := l.notices[pod.UID]
	l.mu.Unlock()
	switch {
	case len(pod.Spec.ReadinessGates) > 0 && running(m):
		return time.Second
	case waits:
		return overdue
	}
	return 0
}
