package provider

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
)

// used is a Pod of one container with a request of memory and a limit of disk space, and what it uses.
func used(name string, request string, priority int32, memory, rootfs, volume int64) podUsage {
	scratch := resource.MustParse("10Mi")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Priority: &priority,
		Volumes:    []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &scratch}}}},
		Containers: []corev1.Container{{Name: "main"}}}}
	c := &pod.Spec.Containers[0]
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("20Mi")}
	if request != "" {
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(request)}
	}
	return podUsage{pod, gondola.MachineStats{
		Containers: []gondola.ContainerStats{{Name: "main", Memory: gondola.MemoryStats{WorkingSet: memory}, Rootfs: gondola.DiskStats{Used: rootfs}}},
		Volumes:    []gondola.VolumeStats{{Name: "scratch", Disk: gondola.DiskStats{Used: volume}}}}}
}

const mib = 1 << 20

func TestRank_WhoUsesMoreThanItAskedForGoesFirst(t *testing.T) {
	short, ok := shortageOf(gondola.HostStats{MemoryTotal: 1 << 30, MemoryAvailable: 10 * mib})
	if !ok || short.resource != corev1.ResourceMemory {
		t.Fatalf("shortage = %+v, %v", short, ok)
	}
	got := short.rank([]podUsage{
		used("within", "100Mi", 0, 90*mib, 0, 0), used("over", "10Mi", 0, 50*mib, 0, 0), used("besteffort", "", 0, 60*mib, 0, 0),
		used("important", "", 1000, 500*mib, 0, 0),
	})
	for i, want := range []string{"besteffort", "over", "important", "within"} {
		if got[i].pod.Name != want {
			t.Errorf("rank %d is %s, want %s", i, got[i].pod.Name, want)
		}
	}
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 10Mi. Container main was using 60Mi, request is 0, has larger consumption of memory. "
	if m := short.message(got[0]); m != want {
		t.Errorf("message = %q, want %q", m, want)
	}
}

func TestOverLimit_InAKubeletsWords(t *testing.T) {
	for _, c := range []struct {
		rootfs, volume int64
		want           string
	}{
		{1 * mib, 1 * mib, ""},
		{0, 11 * mib, `Usage of EmptyDir volume "scratch" exceeds the limit "10Mi". `},
		{15 * mib, 9 * mib, "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. "},
	} {
		p := used("p", "", 0, 0, c.rootfs, c.volume)
		if got := overLimit(p.pod, &p.MachineStats); got != c.want {
			t.Errorf("rootfs %d, volume %d: %q, want %q", c.rootfs, c.volume, got, c.want)
		}
	}
	p := used("p", "", 0, 0, 25*mib, 0) // beside a container without a limit, a container's own
	p.pod.Spec.Containers = append(p.pod.Spec.Containers, corev1.Container{Name: "other", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}}})
	if got, want := overLimit(p.pod, &p.MachineStats), `Container main exceeded its local ephemeral storage limit "20Mi". `; got != want {
		t.Errorf("a container over its limit: %q, want %q", got, want)
	}
}
