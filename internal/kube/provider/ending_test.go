package provider_test

import (
	"io"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

func TestForceDelete_TellsTheContainersAndDestroysTheMachine(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("gone", "trap", ";", "print", "bye"))
	s.until(t, ns, "gone", phase(corev1.PodRunning))
	log, err := s.Client.CoreV1().Pods(ns).GetLogs("gone", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := s.Client.CoreV1().Pods(ns).Delete(t.Context(), "gone", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(log); err != nil || string(b) != "ready\ngot SIGTERM\nbye\n" {
		t.Errorf("the container said %q, %v", b, err)
	}
	s.untilNoMachines(t, ns)
}

func TestActiveDeadline_EndsThePod(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("late", "run")
	p.Spec.ActiveDeadlineSeconds = new(int64(1))
	s.create(t, ns, p)
	if got := s.until(t, ns, "late", phase(corev1.PodFailed)); got.Status.Reason != "DeadlineExceeded" {
		t.Errorf("reason %q, want DeadlineExceeded", got.Status.Reason)
	}
}

// notReady says what is missing for a Pod that runs and is not ready.
func notReady(p *corev1.Pod) string {
	if p.Status.Phase != corev1.PodRunning || podutil.IsPodReadyConditionTrue(p.Status) {
		return "want it to run and not to be ready"
	}
	return ""
}

func TestPodOnItsWayDown_IsNotReadyWhenItSaysSo(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("drains", "write", "/tmp/ready", "yes", ";", "trap", ";", "remove", "/tmp/ready", ";", "ignore")
	p.Spec.TerminationGracePeriodSeconds = new(int64(600))
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{
		Exec: &corev1.ExecAction{Command: []string{"/program", "read", "/tmp/ready"}}}}
	s.create(t, ns, p)
	s.until(t, ns, "drains", func(p *corev1.Pod) string {
		if !podutil.IsPodReadyConditionTrue(p.Status) {
			return "not ready"
		}
		return ""
	})
	if err := s.Client.CoreV1().Pods(ns).Delete(t.Context(), "drains", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, ns, "drains", notReady)
	if err := s.Client.CoreV1().Pods(ns).Delete(t.Context(), "drains", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
}

func TestActiveDeadline_IsToldBeforeTheContainersHaveEnded(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("late", "ignore")
	p.Spec.TerminationGracePeriodSeconds, p.Spec.ActiveDeadlineSeconds = new(int64(600)), new(int64(2))
	s.create(t, ns, p)
	s.until(t, ns, "late", notReady)
	if err := s.Client.CoreV1().Pods(ns).Delete(t.Context(), "late", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
}
