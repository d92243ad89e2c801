package provider

import (
	corev1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodeports"
	schedutil "k8s.io/kubernetes/pkg/scheduler/util"

	"gondola"
	"gondola/internal/kube/translate"
)

// takeHostPorts gives a Pod the ports of its node that it asks for, or says as a kubelet does that another Pod has one. The scheduler has
// looked before; a Pod that was bound past it has not been looked at by anybody.
func (e *engine) takeHostPorts(pod *corev1.Pod) *translate.Failure {
	wanted := schedutil.GetHostPorts(pod)
	if len(wanted) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	used := fwk.HostPortInfo{}
	for uid, t := range e.pods {
		if uid == pod.UID || t.pod == nil || t.pod.Spec.NodeName != pod.Spec.NodeName || !t.holdsHostPorts() {
			continue
		}
		for _, p := range schedutil.GetHostPorts(t.pod) {
			used.Add(p.HostIP, string(p.Protocol), p.HostPort)
		}
	}
	for _, p := range wanted {
		if used.CheckConflict(p.HostIP, string(p.Protocol), p.HostPort) {
			return &translate.Failure{Reason: nodeports.Name, Message: "Pod was rejected: Predicate " + nodeports.Name + " failed: " + nodeports.ErrReason}
		}
	}
	if t := e.pods[pod.UID]; t != nil {
		t.hostPorts = true
	}
	return nil
}

// holdsHostPorts says whether the Pod's ports are its own: it was given them, or it has its Machine; until it has ended.
func (t *tracked) holdsHostPorts() bool {
	if t.pod.Status.Phase == corev1.PodSucceeded || t.pod.Status.Phase == corev1.PodFailed {
		return false
	}
	return t.hostPorts || t.machine != nil && t.machine.State != gondola.Destroyed
}
