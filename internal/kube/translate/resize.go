package translate

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	sums "k8s.io/component-helpers/resource"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
)

// What a Pod asks for is its spec; what has been allocated to it is its Machine's Config, which alone survives restarts; and what its
// containers run with is what the Machine tells of them (https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/).

// Pending is why a resize is not carried out.
type Pending struct{ Reason, Message string }

// Resize returns what the Pod and its containers ask for.
func Resize(pod *corev1.Pod) gondola.ResizeRequest {
	var req gondola.ResizeRequest
	requests, limits := podResources(pod)
	req.Size = gondola.Size{Requests: requests, Limits: value(limits)}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			req.Containers = append(req.Containers, gondola.ContainerSize{Name: list[i].Name, Size: size(&list[i].Resources)})
		}
	}
	return req
}

func size(r *corev1.ResourceRequirements) gondola.Size {
	return gondola.Size{Requests: value(amount(r.Requests)), Limits: value(amount(r.Limits))}
}

// Resized says whether the Pod asks for something else than what has been allocated to it.
func Resized(pod *corev1.Pod, m *gondola.Machine) bool {
	if m == nil || m.Config == nil || m.Config.Gondola == nil {
		return false
	}
	req := Resize(pod)
	if req.Requests != value(m.Config.Gondola.Requests) || req.Limits != value(m.Config.Gondola.Limits) {
		return true
	}
	for _, c := range req.Containers {
		if k := configOf(m, c.Name); k != nil && k.Size() != c.Size {
			return true
		}
	}
	return false
}

func configOf(m *gondola.Machine, name string) *gondola.Container {
	if m == nil || m.Config == nil {
		return nil
	}
	for i := range m.Config.Containers {
		if m.Config.Containers[i].Name == name {
			return &m.Config.Containers[i]
		}
	}
	return nil
}

// resizeRestart lists the resources whose change wants a restart of the container.
func resizeRestart(c *corev1.Container) (on []string) {
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer {
			on = append(on, string(p.ResourceName))
		}
	}
	return on
}

// resources writes what is allocated to a container, and what it has.
func resources(st *corev1.ContainerStatus, c *corev1.Container, m *gondola.Machine, observed *gondola.ContainerStatus) {
	allocated := c.Resources
	if k := configOf(m, c.Name); k != nil {
		allocated = withSize(c.Resources, k.Size())
	}
	actual := *allocated.DeepCopy()
	if observed.Size != nil && st.State.Running != nil {
		actual = withSize(allocated, *observed.Size)
	}
	st.AllocatedResources, st.Resources = allocated.Requests, &actual
}

// withSize returns r with the CPU and memory of a size. Where they are the same already it keeps what the user wrote.
func withSize(r corev1.ResourceRequirements, s gondola.Size) corev1.ResourceRequirements {
	out := *r.DeepCopy()
	if size(&r) == s {
		return out
	}
	out.Requests = withAmount(out.Requests, s.Requests)
	out.Limits = withAmount(out.Limits, s.Limits)
	return out
}

func withAmount(l corev1.ResourceList, r gondola.Resources) corev1.ResourceList {
	if value(amount(l)) == r {
		return l
	}
	out := corev1.ResourceList{}
	for name, q := range l {
		out[name] = q
	}
	set := func(name corev1.ResourceName, q *resource.Quantity) {
		old, there := out[name]
		switch {
		case q.IsZero():
			delete(out, name)
		case !there || old.Cmp(*q) != 0:
			out[name] = *q
		}
	}
	set(corev1.ResourceCPU, resource.NewMilliQuantity(r.CPUMillis, resource.DecimalSI))
	set(corev1.ResourceMemory, resource.NewQuantity(r.MemoryBytes, resource.BinarySI))
	return out
}

// podLevel writes what is allocated to the Pod as a whole, and what it has: the sums of its containers, where the Pod itself says nothing. While a
// resize is on its way, what was stays. A kubelet reads the limits of a Pod that runs from its cgroup, which has one where all containers have.
func podLevel(pod *corev1.Pod, old, s *corev1.PodStatus, m *gondola.Machine) {
	if Resized(pod, m) {
		return
	}
	requests := sums.PodRequests(pod, sums.PodResourcesOptions{})
	s.AllocatedResources = requests
	if m != nil && m.Gondola != nil && m.Gondola.Resize != nil {
		return
	}
	limits := sums.PodLimits(pod, sums.PodResourcesOptions{})
	if old.Phase == corev1.PodRunning {
		_, limits = podLists(pod)
	}
	s.Resources = &corev1.ResourceRequirements{Requests: requests.DeepCopy(), Limits: limits}
}

// resizeConditions tell of a resize that is asked for, and of one that is under way.
func resizeConditions(pod *corev1.Pod, old *corev1.PodStatus, m *gondola.Machine, o Observed) (out []corev1.PodCondition) {
	if m == nil || m.Gondola == nil || o.Over || o.Failure != nil {
		return nil
	}
	if Resized(pod, m) {
		c := corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonDeferred, ObservedGeneration: pod.Generation}
		if o.Resize != nil {
			c.Reason, c.Message = o.Resize.Reason, o.Resize.Message
		}
		out = append(out, c)
	}
	if m.Gondola.Resize != nil {
		c := corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation}
		if _, was := podutil.GetPodConditionFromList(old.Conditions, c.Type); was != nil {
			c.ObservedGeneration = was.ObservedGeneration
		}
		if o.ResizeGeneration != 0 {
			c.ObservedGeneration = o.ResizeGeneration
		}
		if text := m.Gondola.Resize.Error; text != "" {
			c.Reason, c.Message = corev1.PodReasonError, text
		}
		out = append(out, c)
	}
	for i := range out {
		out[i].LastTransitionTime = metav1.NewTime(o.Now).Rfc3339Copy()
		if _, was := podutil.GetPodConditionFromList(old.Conditions, out[i].Type); was != nil && was.Reason == out[i].Reason {
			out[i].LastTransitionTime = was.LastTransitionTime
		}
	}
	return out
}

func value(r *gondola.Resources) gondola.Resources {
	if r == nil {
		return gondola.Resources{}
	}
	return *r
}
