package translate

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
)

// containerStatuses returns one status per container of the list, in its order.
func containerStatuses(pod *corev1.Pod, m *gondola.Machine, o Observed, list []corev1.Container, old []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range list {
		c := &list[i]
		before, existed := podutil.GetContainerStatus(old, c.Name)
		st := corev1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: mountStatuses(c)}
		observed := find(m, c.Name)
		switch {
		case observed != nil && observed.State.Kind != gondola.ContainerWaiting, observed != nil && observed.RestartCount > 0:
			fill(&st, observed)
		case existed && before.ContainerID != "": // it ran, and nobody can tell any more: keep what was known
			st = before
		case observed != nil:
			fill(&st, observed)
			st.ContainerID, st.ImageID = "", "" // of a run that has not begun
			if w := st.State.Waiting; w.Reason == "" || w.Reason == "ContainerCreating" {
				w.Reason = creating(pod)
			}
		default:
			st.State.Waiting = &corev1.ContainerStateWaiting{Reason: creating(pod)}
			if w := o.Waiting; w != nil && (w.Container == "" || w.Container == c.Name) {
				st.State.Waiting.Reason, st.State.Waiting.Message = w.Reason, w.Message
			}
		}
		if observed != nil && st.ContainerID != "" {
			resources(&st, c, m, observed)
		}
		// The API server takes an end that it was told for the container's, where the Pod's policy says so: this one is followed by another run.
		if t := st.State.Terminated; t != nil && again(m) && before.State.Terminated == nil && !o.Over && o.Failure == nil && !isInit(pod, c.Name) {
			st.LastTerminationState = corev1.ContainerState{Terminated: t}
			st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: creating(pod)}}
		}
		if (o.Over || o.Failure != nil) && st.State.Running != nil && !alive(m) {
			lose(&st, o)
		}
		if st.Started == nil {
			st.Started = ptr(false)
		}
		if isInit(pod, c.Name) && !isSidecar(c) { // as a kubelet has it: the Pod is initialized when all of them are ready
			st.Ready = st.Ready && st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
		} else if st.State.Running == nil {
			st.Ready = false
		}
		out = append(out, st)
	}
	return out
}

// byName sorts statuses as a kubelet does all but those of init containers, which keep the spec's order.
func byName(list []corev1.ContainerStatus) []corev1.ContainerStatus {
	slices.SortFunc(list, func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func find(m *gondola.Machine, name string) *gondola.ContainerStatus {
	if m == nil || m.Gondola == nil {
		return nil
	}
	for i := range m.Gondola.Containers {
		if m.Gondola.Containers[i].Name == name {
			return &m.Gondola.Containers[i]
		}
	}
	return nil
}

// alive says whether containers of the Machine may still run.
func alive(m *gondola.Machine) bool {
	if m == nil {
		return false
	}
	switch m.State {
	case gondola.Created, gondola.Stopped, gondola.Destroyed, gondola.Failed, gondola.LaunchFailed, gondola.Replaced, gondola.Migrated:
		return false
	}
	return true
}

// lose ends a container whose end nobody saw, as a kubelet does.
func lose(st *corev1.ContainerStatus, o Observed) {
	st.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated",
		StartedAt: st.State.Running.StartedAt, FinishedAt: metav1.NewTime(o.Now).Rfc3339Copy(), ContainerID: st.ContainerID,
	}}
	st.Ready, st.Started = false, ptr(false)
}

func creating(pod *corev1.Pod) string {
	if len(pod.Spec.InitContainers) > 0 {
		return "PodInitializing"
	}
	return "ContainerCreating"
}

func isInit(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

// fill copies what the Machine tells of the container.
func fill(st *corev1.ContainerStatus, c *gondola.ContainerStatus) {
	st.RestartCount, st.ImageID, st.ContainerID, st.Ready = int32(c.RestartCount), c.ImageID, c.ContainerID, c.Ready
	st.Started = ptr(c.Started)
	st.State = state(c.State)
	if c.Last != nil {
		st.LastTerminationState = state(*c.Last)
	}
}

func state(s gondola.ContainerState) corev1.ContainerState {
	switch s.Kind {
	case gondola.ContainerRunning:
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(s.StartedAt).Rfc3339Copy()}}
	case gondola.ContainerExited:
		reason := s.Reason
		if reason == "" {
			reason = "Error"
			if s.ExitCode == 0 {
				reason = "Completed"
			}
		}
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: int32(s.ExitCode), Signal: int32(s.Signal), Reason: reason, Message: s.Message,
			StartedAt: metav1.NewTime(s.StartedAt).Rfc3339Copy(), FinishedAt: metav1.NewTime(s.FinishedAt).Rfc3339Copy(), ContainerID: s.ContainerID,
		}}
	default:
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: s.Reason, Message: s.Message}}
	}
}

func mountStatuses(c *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			s.RecursiveReadOnly = ptr(corev1.RecursiveReadOnlyDisabled)
			if p := m.RecursiveReadOnly; p != nil && *p != corev1.RecursiveReadOnlyDisabled {
				s.RecursiveReadOnly = ptr(corev1.RecursiveReadOnlyEnabled) // no volume has mounts below it
			}
		}
		out = append(out, s)
	}
	return out
}
