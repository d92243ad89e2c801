package oracle_test

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// normal returns the status without what has to differ between two Pods: when, where, and under which names. That something is there stays, and
// a container's id becomes the number of its run, so that what is related stays related.
func normal(p *corev1.Pod) corev1.PodStatus {
	s := *p.Status.DeepCopy()
	s.StartTime = someTime(s.StartTime)
	if s.HostIP != "" {
		s.HostIP, s.HostIPs = "HOST", slices.Repeat([]corev1.HostIP{{IP: "HOST"}}, min(1, len(s.HostIPs)))
	}
	if s.PodIP != "" {
		s.PodIP, s.PodIPs = "POD", slices.Repeat([]corev1.PodIP{{IP: "POD"}}, min(1, len(s.PodIPs)))
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.LastTransitionTime, c.LastProbeTime = *someTime(&c.LastTransitionTime), *someTime(&c.LastProbeTime)
		c.Message = neutral(p, c.Message)
	}
	if s.Resources != nil && !limited(p) {
		// A kubelet shows the sum of those limits that there are until it happens to look at the Pod again, up to a minute after it runs, and then
		// what its cgroup has: none.
		s.Resources.Limits = nil
	}
	slices.SortFunc(s.Conditions, func(a, b corev1.PodCondition) int { return strings.Compare(string(a.Type), string(b.Type)) })
	s.Message = neutral(p, s.Message)
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			normalContainer(p, &list[i])
		}
	}
	return s
}

func normalContainer(p *corev1.Pod, c *corev1.ContainerStatus) {
	c.ContainerID = runNumber(c.ContainerID)
	if c.ImageID != "" {
		c.ImageID = "IMAGE"
	}
	normalState(p, &c.State)
	normalState(p, &c.LastTerminationState)
}

func normalState(p *corev1.Pod, s *corev1.ContainerState) {
	if s.Running != nil {
		s.Running.StartedAt = *someTime(&s.Running.StartedAt)
	}
	if s.Waiting != nil {
		s.Waiting.Message = neutral(p, s.Waiting.Message)
	}
	if t := s.Terminated; t != nil {
		t.StartedAt, t.FinishedAt = *someTime(&t.StartedAt), *someTime(&t.FinishedAt)
		t.ContainerID, t.Message = runNumber(t.ContainerID), neutral(p, t.Message)
		t.Signal = 0 // the interface between kubelets and runtimes has no field for it: a kubelet never tells, Gondola does
	}
}

// runNumber makes "run 2" of an id, which on both sides ends with the number of the run, from 0.
func runNumber(id string) string {
	if id == "" {
		return ""
	}
	return "run " + id[strings.LastIndex(id, "/")+1:]
}

// neutral takes the Pod's names out of a message.
func neutral(p *corev1.Pod, message string) string {
	message = strings.ReplaceAll(message, fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID), "POD")
	return strings.ReplaceAll(message, p.Namespace+"/"+p.Name, "POD")
}

var someMoment = metav1.Unix(1, 0)

func someTime(t *metav1.Time) *metav1.Time {
	if t.IsZero() {
		return t
	}
	return &someMoment
}

// limited says whether each container, or the Pod, has limits.
func limited(p *corev1.Pod) bool {
	return p.Spec.Resources != nil || !slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool { return len(c.Resources.Limits) < 2 })
}
