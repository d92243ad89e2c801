package provider

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"gondola"
)

// evicted is the reason of a Pod that was.
const evicted = "Evicted"

// hasDiskLimit says whether something limits the disk space that a Pod may take.
func hasDiskLimit(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if diskSizeLimit(&pod.Spec.Volumes[i]) != nil {
			return true
		}
	}
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return !c.Resources.Limits.StorageEphemeral().IsZero() })
}

// diskSizeLimit is the limit of an emptyDir on disk; one in memory cannot grow beyond its own.
func diskSizeLimit(v *corev1.Volume) *resource.Quantity {
	if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
		return nil
	}
	return v.EmptyDir.SizeLimit
}

// overLimit says by which limit a Pod takes too much disk space, in a kubelet's words; empty if by none. Pure.
func overLimit(pod *corev1.Pod, m *gondola.MachineStats) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		limit := diskSizeLimit(v)
		for _, s := range m.Volumes {
			if limit != nil && s.Name == v.Name && s.Disk.Used > limit.Value() {
				return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
			}
		}
	}
	if limit, ok := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]; ok && m.Ephemeral().Used > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, s := range m.Containers {
		for i := range pod.Spec.Containers {
			c := &pod.Spec.Containers[i]
			limit := c.Resources.Limits.StorageEphemeral()
			if c.Name == s.Name && !limit.IsZero() && s.Rootfs.Used+s.Logs.Used > limit.Value() {
				return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
			}
		}
	}
	return ""
}

// shortage is what runs out on a host, and how much of it there is.
type shortage struct {
	resource             corev1.ResourceName
	threshold, available int64
	format               resource.Format
	// container is what one uses of it; rest is what the Pod uses beside that.
	container func(*gondola.ContainerStats) int64
	rest      func(*gondola.MachineStats) int64
}

// shortageOf says what runs out; memory first, as it is the most urgent.
func shortageOf(h gondola.HostStats) (shortage, bool) {
	disk := shortage{resource: corev1.ResourceEphemeralStorage, format: resource.BinarySI,
		container: func(c *gondola.ContainerStats) int64 { return c.Rootfs.Used + c.Logs.Used },
		rest: func(m *gondola.MachineStats) (sum int64) {
			for _, v := range m.Volumes {
				sum += v.Disk.Used
			}
			return sum
		}}
	none := func(*gondola.MachineStats) int64 { return 0 }
	switch p := h.Pressure(); {
	case p.Memory:
		return shortage{resource: corev1.ResourceMemory, format: resource.BinarySI, threshold: h.MinMemory(), available: h.MemoryAvailable,
			container: func(c *gondola.ContainerStats) int64 { return c.Memory.WorkingSet }, rest: none}, true
	case p.Disk && h.Disk.Available < h.MinDisk():
		disk.threshold, disk.available = h.MinDisk(), h.Disk.Available
		return disk, true
	case p.Disk:
		disk.resource, disk.format, disk.threshold, disk.available = "inodes", resource.DecimalSI, h.MinInodes(), h.Disk.InodesAvailable
		disk.container = func(c *gondola.ContainerStats) int64 { return c.Rootfs.Inodes + c.Logs.Inodes }
		disk.rest = func(m *gondola.MachineStats) (sum int64) {
			for _, v := range m.Volumes {
				sum += v.Disk.Inodes
			}
			return sum
		}
		return disk, true
	case p.PIDs:
		return shortage{resource: "pids", format: resource.DecimalSI, threshold: h.MinPIDs(), available: h.MaxPIDs - h.PIDs,
			container: func(c *gondola.ContainerStats) int64 { return c.Processes }, rest: none}, true
	}
	return shortage{}, false
}

// rank orders Pods, the first to go first: those that use more than they request, then those of lower priority, then those that use most beyond their
// request. So Pods that request nothing go first and Guaranteed ones last, as a kubelet has it. Pure.
func (s shortage) rank(pods []podUsage) []podUsage {
	out := slices.Clone(pods)
	slices.SortStableFunc(out, func(a, b podUsage) int {
		overA, overB := s.used(&a)-s.requested(a.pod), s.used(&b)-s.requested(b.pod)
		if (overA > 0) != (overB > 0) {
			return map[bool]int{true: -1, false: 1}[overA > 0]
		}
		return cmp.Or(cmp.Compare(priority(a.pod), priority(b.pod)), cmp.Compare(overB, overA))
	})
	return out
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

func (s shortage) used(p *podUsage) int64 {
	sum := s.rest(&p.MachineStats)
	for i := range p.Containers {
		sum += s.container(&p.Containers[i])
	}
	return sum
}

func (s shortage) requested(pod *corev1.Pod) int64 {
	q := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[s.resource]
	return q.Value()
}

// message is what a kubelet says of an eviction.
func (s shortage) message(p podUsage) string {
	quantity := func(n int64) string { return resource.NewQuantity(n, s.format).String() }
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", s.resource, quantity(s.threshold), quantity(s.available))
	for i := range p.pod.Spec.Containers {
		c := &p.pod.Spec.Containers[i]
		request := c.Resources.Requests[s.resource]
		for j := range p.Containers {
			used := s.container(&p.Containers[j])
			if p.Containers[j].Name == c.Name && used > request.Value() {
				fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, quantity(used), request.String(), s.resource)
			}
		}
	}
	return b.String()
}
