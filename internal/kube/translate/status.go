package translate

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	kubeletstatus "k8s.io/kubernetes/pkg/kubelet/status"

	"gondola"
)

// Observed is what is known of a Pod beside its object and its Machine.
type Observed struct {
	HostIPs []netip.Addr // of the node, where the Machine tells none
	Gateway bool         // the node has addresses of its own: HostIPs, whatever the Machine tells
	Now     time.Time
	Failure *Failure // the Pod has failed as a whole, for ever; while it is not Over, its containers are being ended
	Waiting *Waiting // why there is no Machine yet
	// Over says that no container will be started again whatever the restart policy: the Pod is being deleted or has failed, and its
	// containers have ended.
	Over    bool
	Refused map[string]string // ephemeral container → why it cannot be run

	Resize           *Pending // why the Pod's new resources are not carried out; nil: that has not been tried yet
	ResizeGeneration int64    // generation of the Pod whose resources were carried out last; zero: not known
}

// Failure is why a Pod as a whole has failed.
type Failure struct {
	Reason, Message string
	Disrupted       bool // by its node, for want of something there
}

// Waiting is why containers wait: one of them, or all where Container is empty.
type Waiting struct{ Container, Reason, Message string }

// PodStatus returns the status of the Pod as its Machine (nil while there is none) makes it. What others wrote is kept: conditions that are
// not a kubelet's, the nominated node, a terminal phase. Times of transition move only with their status.
func PodStatus(pod *corev1.Pod, m *gondola.Machine, o Observed) corev1.PodStatus {
	old := pod.Status.DeepCopy()
	s := old.DeepCopy()
	if terminal(old.Phase) && old.ObservedGeneration != 0 { // nobody looks at what is changed in its spec any more
		last := *pod
		last.Generation = old.ObservedGeneration
		pod = &last
	}
	s.ObservedGeneration = podutil.CalculatePodStatusObservedGeneration(pod)
	s.QOSClass = old.QOSClass
	if s.QOSClass == "" {
		s.QOSClass = qos.ComputePodQOS(pod)
	}
	if s.StartTime == nil {
		s.StartTime = ptr(metav1.NewTime(o.Now).Rfc3339Copy())
	}
	s.InitContainerStatuses = containerStatuses(pod, m, o, pod.Spec.InitContainers, old.InitContainerStatuses)
	s.ContainerStatuses = byName(containerStatuses(pod, m, o, pod.Spec.Containers, old.ContainerStatuses))
	s.EphemeralContainerStatuses = byName(ephemeralStatuses(pod, m, o))
	judged := phase(pod, s.InitContainerStatuses, s.ContainerStatuses, o.Over)
	if terminal(judged) && !o.Over && again(m) {
		judged = corev1.PodRunning // what has ended is a run, not the Pod
	}
	s.Phase = judged
	if o.Over && !terminal(judged) { // it never came to its containers' end, and never will
		s.Phase = corev1.PodFailed
	}
	if s.Phase != old.Phase {
		s.Reason, s.Message = "", ""
	}
	if o.Failure != nil {
		judged = corev1.PodFailed // it is not ready from now on
		if o.Over {
			s.Phase, s.Reason, s.Message = judged, o.Failure.Reason, o.Failure.Message
		}
	}
	if terminal(old.Phase) { // never left
		s.Phase, s.Reason, s.Message = old.Phase, old.Reason, old.Message
		if _, c := podutil.GetPodConditionFromList(old.Conditions, corev1.PodReady); c == nil || c.Reason != kubeletstatus.ContainersNotReady {
			judged = old.Phase
		}
	}
	addresses(s, m, o)
	podLevel(pod, old, s, m)
	conditions(pod, old, s, judged, m, o)
	if o.Failure != nil && o.Failure.Disrupted {
		disrupted(old, s, pod, o)
	}
	return *s
}

// again says whether the Machine is on its way to another run: what its containers tell is of the one before.
func again(m *gondola.Machine) bool {
	if m == nil {
		return false
	}
	switch m.State {
	case gondola.Starting, gondola.Restarting, gondola.Updating, gondola.Replacing:
		return true
	}
	return false
}

func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// disrupted adds the condition by which a controller knows that the Pod did not fail by itself.
func disrupted(old, s *corev1.PodStatus, pod *corev1.Pod, o Observed) {
	c := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: o.Failure.Message,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(old, pod.Generation, corev1.DisruptionTarget), LastTransitionTime: metav1.NewTime(o.Now).Rfc3339Copy()}
	if at, _ := podutil.GetPodConditionFromList(s.Conditions, c.Type); at < 0 {
		s.Conditions = append(s.Conditions, c)
	}
}

// addresses sets the IPs. A Pod keeps its last ones when its Machine is gone.
func addresses(s *corev1.PodStatus, m *gondola.Machine, o Observed) {
	hosts := o.HostIPs
	if m != nil && m.Gondola != nil {
		if len(m.Gondola.HostIPs) > 0 && !o.Gateway {
			hosts = m.Gondola.HostIPs
		}
		if len(m.Gondola.Addresses) > 0 {
			s.PodIPs = nil
			for _, a := range onePerFamily(m.Gondola.Addresses) {
				s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: a.String()})
			}
			s.PodIP = s.PodIPs[0].IP
		}
	}
	if len(hosts) > 0 {
		s.HostIPs = nil
		for _, a := range onePerFamily(hosts) {
			s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: a.String()})
		}
		s.HostIP = s.HostIPs[0].IP
	}
}

// onePerFamily keeps the first address of each family, in their order.
func onePerFamily(list []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		if !slices.ContainsFunc(out, func(b netip.Addr) bool { return b.Is4() == a.Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

// conditions writes the conditions that are a kubelet's and keeps all others. judged is the phase as the containers alone make it: a Pod that is
// ended before its containers were begun is Failed, and still one whose containers are not ready.
func conditions(pod *corev1.Pod, old, s *corev1.PodStatus, judged corev1.PodPhase, m *gondola.Machine, o Observed) {
	owned := []corev1.PodConditionType{corev1.PodResizePending, corev1.PodResizeInProgress, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled}
	s.Conditions = nil
	for _, c := range old.Conditions {
		if !slices.Contains(owned, c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	if !terminal(s.Phase) {
		s.Conditions = append(s.Conditions, resizeConditions(pod, old, m, o)...)
	}
	all := append(slices.Clone(s.InitContainerStatuses), s.ContainerStatuses...)
	sandbox := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(old, pod.Generation, corev1.PodReadyToStartContainers)}
	if hasSandbox(m) {
		sandbox.Status = corev1.ConditionTrue
	}
	fresh := []corev1.PodCondition{
		sandbox,
		kubeletstatus.GeneratePodInitializedCondition(pod, old, all, judged),
		kubeletstatus.GeneratePodReadyCondition(pod, old, s.Conditions, all, judged),
		kubeletstatus.GenerateContainersReadyCondition(pod, old, all, judged),
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue,
			ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(old, pod.Generation, corev1.PodScheduled)},
	}
	for _, c := range fresh {
		c.LastTransitionTime = metav1.NewTime(o.Now).Rfc3339Copy()
		if _, was := podutil.GetPodConditionFromList(old.Conditions, c.Type); was != nil && was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
			c.LastProbeTime = was.LastProbeTime
		}
		s.Conditions = append(s.Conditions, c)
	}
}

// hasSandbox says whether the Machine's sandbox and network are there.
func hasSandbox(m *gondola.Machine) bool {
	return m != nil && m.Gondola != nil && m.Gondola.SandboxID != "" &&
		(m.State == gondola.Starting || m.State == gondola.Started || m.State == gondola.Stopping || m.State == gondola.Suspended)
}

// phase follows the kubelet's getPhase: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase.
func phase(pod *corev1.Pod, inits, apps []corev1.ContainerStatus, over bool) corev1.PodPhase {
	var n counts
	if n.addInits(pod, inits) {
		return corev1.PodFailed
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		st, _ := podutil.GetContainerStatus(apps, c.Name)
		ended := terminated(st)
		n.begun = n.begun || st.State.Running != nil || ended != nil
		switch {
		case st.State.Running != nil:
			n.running++
		case ended == nil:
			n.waiting++
		default:
			n.stopped++
			if st.State.Waiting != nil && ended.ExitCode == 0 && !over {
				break // it is being started anew, whatever its policy says: for new resources
			}
			if over || !podutil.ContainerShouldRestart(*c, pod.Spec, ended.ExitCode) {
				n.final++
			}
			if ended.ExitCode == 0 {
				n.succeeded++
			}
		}
	}
	switch {
	case n.pending > 0 || n.waiting > 0 || n.sidecarsPending > 0 && !n.begun:
		return corev1.PodPending
	case n.running+n.sidecars > 0 || n.stopped != n.final:
		return corev1.PodRunning
	case n.stopped == 0:
		return corev1.PodPending
	case n.stopped == n.succeeded:
		return corev1.PodSucceeded
	default:
		return corev1.PodFailed
	}
}

// counts is how many containers are how.
type counts struct {
	pending                                     int // init containers that have to come to their end yet
	sidecars, sidecarsPending                   int // that run; that have not started
	running, waiting, stopped, final, succeeded int // of the others; final: they will not run again
	begun                                       bool
}

// addInits counts init containers and sidecars, and says whether one has failed for good. That a sidecar has ended means nothing.
func (n *counts) addInits(pod *corev1.Pod, inits []corev1.ContainerStatus) (failed bool) {
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		st, _ := podutil.GetContainerStatus(inits, c.Name)
		ended := terminated(st)
		switch {
		case isSidecar(c) && st.State.Running != nil:
			n.sidecars++
			if st.Started == nil || !*st.Started {
				n.sidecarsPending++
			}
		case isSidecar(c):
			if ended == nil {
				n.sidecarsPending++
			}
		case ended == nil:
			n.pending++
		case ended.ExitCode != 0 && !podutil.ContainerShouldRestart(*c, pod.Spec, ended.ExitCode):
			return true
		case ended.ExitCode != 0: // it runs again
			n.pending++
		}
	}
	return false
}

// terminated returns how the container ended, now or, where it waits for its next run, the last time.
func terminated(st corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	switch {
	case st.State.Terminated != nil:
		return st.State.Terminated
	case st.State.Running != nil:
		return nil
	default:
		return st.LastTerminationState.Terminated
	}
}
