package translate

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
)

// EphemeralContainer translates the i-th ephemeral container of the Pod. Its errors are those of PodToMachine.
func EphemeralContainer(pod *corev1.Pod, i int, in Inputs) (gondola.Container, error) {
	if fields := UnsupportedEphemeral(pod, i, in.driver(pod)); len(fields) > 0 {
		return gondola.Container{}, &UnsupportedError{Fields: fields}
	}
	e := &pod.Spec.EphemeralContainers[i]
	c := corev1.Container(e.EphemeralContainerCommon)
	out, err := container(pod, &c, in, false)
	if err != nil {
		return gondola.Container{}, err
	}
	out.Restart, out.Healthchecks = &gondola.RestartPolicy{Policy: gondola.RestartNo}, nil
	out.Gondola.Ephemeral, out.Gondola.Target = true, e.TargetContainerName
	return out, nil
}

// ephemeralStatuses returns one status per ephemeral container. One that ran and is not in the Machine any more has ended with its sandbox.
func ephemeralStatuses(pod *corev1.Pod, m *gondola.Machine, o Observed) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		before, existed := podutil.GetContainerStatus(pod.Status.EphemeralContainerStatuses, c.Name)
		st := corev1.ContainerStatus{Name: c.Name, Image: c.Image}
		observed := find(m, c.Name)
		switch refused := o.Refused[c.Name]; {
		case existed && before.State.Terminated != nil:
			st = before
		case observed != nil && observed.Ephemeral:
			fill(&st, observed)
			st.Ready, st.Started = false, nil
			st.Resources = &corev1.ResourceRequirements{} // as a kubelet has it: it can have none
		case refused != "":
			now := metav1.NewTime(o.Now).Rfc3339Copy()
			st.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "Unsupported", Message: refused, StartedAt: now, FinishedAt: now}
		case existed && before.State.Running != nil:
			st = before
			if m == nil || m.Gondola != nil && len(m.Gondola.Containers) > 0 {
				lose(&st, o)
				st.Started = nil
			}
		default:
			st.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
			if w := o.Waiting; w != nil && w.Container == c.Name {
				st.State.Waiting.Reason, st.State.Waiting.Message = w.Reason, w.Message
			}
		}
		out = append(out, st)
	}
	return out
}
