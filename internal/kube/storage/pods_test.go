package storage_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is one that mounts a claim at /data and does as the program of the tests is told.
func pod(name, claim string, args ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{{Name: "main", Image: "test/app", Args: args, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}}
}

func (c *cluster) start(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if _, err := c.client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// phase waits until a Pod is in a phase.
func (c *cluster) phase(t *testing.T, name string, want corev1.PodPhase) (p *corev1.Pod) {
	t.Helper()
	eventually(t, "pod "+name+" is "+string(want), func() (err error) {
		if p, err = c.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{}); err == nil && p.Status.Phase != want {
			err = fmt.Errorf("it is %+v", p.Status)
		}
		return err
	})
	return p
}

func (c *cluster) runs(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	return c.phase(t, name, corev1.PodRunning)
}

func (c *cluster) remove(t *testing.T, name string) {
	t.Helper()
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) oneAtATime(t *testing.T) {
	c.make(t, "default", claim("disk", "", "1Gi"))
	c.start(t, pod("first", "disk", "run"))
	c.runs(t, "first")
	c.start(t, pod("second", "disk", "run"))
	c.event(t, "default", "second", "FailedAttachVolume", "is already used by pod default/first")
	c.remove(t, "first")
	c.runs(t, "second")
	c.drop(t, "default", "disk")
	eventually(t, "Kubernetes protects the claim of a Pod", func() error {
		pvc, err := c.client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), "disk", metav1.GetOptions{})
		if err == nil && pvc.DeletionTimestamp == nil {
			err = fmt.Errorf("it is not being deleted")
		}
		return err
	})
	c.left(t, "test-default", 1)
	c.remove(t, "second")
	c.left(t, "test-default", 0)
}

// passesOn: the Machine of a Pod that has ended stands for its logs, but does not keep its volume from others.
func (c *cluster) passesOn(t *testing.T) {
	c.make(t, "default", claim("disk", "", "1Gi"))
	c.start(t, pod("before", "disk", "print", "done"))
	c.phase(t, "before", corev1.PodSucceeded)
	c.start(t, pod("after", "disk", "run"))
	c.runs(t, "after")
	c.phase(t, "before", corev1.PodSucceeded)
	c.remove(t, "before")
	c.remove(t, "after")
	c.drop(t, "default", "disk")
	c.left(t, "test-default", 0)
}

// pins: near is preferred, and has room, but the copy has to be where its source is.
func (c *cluster) pins(t *testing.T) {
	c.make(t, "default", claim("source", "far", "1Gi"))
	c.bound(t, "default", "source")
	for i := range 3 {
		name := fmt.Sprintf("copy-%d", i)
		pvc := claim(name, "", "1Gi")
		pvc.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "source"}
		c.make(t, "default", pvc)
		c.start(t, pod(name, name, "run"))
	}
	for i := range 3 {
		name := fmt.Sprintf("copy-%d", i)
		if p := c.runs(t, name); p.Spec.NodeName != "far" {
			t.Errorf("%s runs on %s, want far", name, p.Spec.NodeName)
		}
		c.remove(t, name)
		c.drop(t, "default", name)
	}
	c.drop(t, "default", "source")
	c.left(t, "test-default", 0)
}
