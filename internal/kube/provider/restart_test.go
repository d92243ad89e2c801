package provider_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
)

// TestRestart stops the whole cluster, lets things happen while it is away, and starts it again.
func TestRestart_FindsItsMachinesAndCatchesUp(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	for _, name := range []string{"stays", "destroyed", "ends"} {
		p := pod(name, "run")
		if name == "ends" {
			p = pod(name, "await", "/tmp/go", ";", "exit", "5")
		}
		s.create(t, ns, p)
	}
	before := map[string]*gondola.Machine{}
	for _, name := range []string{"stays", "destroyed", "ends"} {
		s.until(t, ns, name, phase(corev1.PodRunning))
	}
	for _, m := range s.machines(t, ns) {
		before[m.Config.Metadata["kubernetes_pod"]] = &m
	}
	s.event(t, ns, "stays", "Started")
	events := s.countEvents(t, ns, "stays")
	if err := s.Cluster.Stop(); err != nil {
		t.Fatal(err)
	}

	away := context.Background()
	if err := s.Market.Destroy(away, before["destroyed"].Ref(), true); err != nil {
		t.Error(err)
	}
	if _, err := s.Market.Exec(away, before["ends"].Ref(), gondola.ExecRequest{Command: []string{"/program", "write", "/tmp/go", "x"}}); err != nil {
		t.Error(err)
	}
	if _, err := s.Market.Wait(away, before["ends"].Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Stopped}, Timeout: 10 * time.Second}); err != nil {
		t.Error(err)
	}

	if err := s.cluster(); err != nil {
		t.Fatal(err)
	}
	got := s.until(t, ns, "ends", phase(corev1.PodFailed))
	if st := got.Status.ContainerStatuses[0].State.Terminated; st == nil || st.ExitCode != 5 {
		t.Errorf("ended while nobody looked with %+v, want exit code 5", got.Status.ContainerStatuses[0].State)
	}
	if got := s.until(t, ns, "destroyed", phase(corev1.PodFailed)); got.Status.Reason != "MachineDestroyed" {
		t.Errorf("reason %q, want MachineDestroyed", got.Status.Reason)
	}
	s.until(t, ns, "stays", phase(corev1.PodRunning))
	found := false
	for _, m := range s.machines(t, ns) {
		found = found || m.ID == before["stays"].ID && m.Version == before["stays"].Version && m.State == gondola.Started
	}
	if !found {
		t.Errorf("the Machine %s of the Pod that stays is not as it was", before["stays"].ID)
	}
	if now := s.countEvents(t, ns, "stays"); now != events {
		t.Errorf("%d events of the Pod that stays after the restart, %d before", now, events)
	}
	if err := s.Client.CoreV1().Pods(ns).Delete(t.Context(), "stays", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.untilGone(t, ns, "stays")
}

func (s *system) countEvents(t *testing.T, ns, pod string) int32 {
	t.Helper()
	list, err := s.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		t.Fatal(err)
	}
	var n int32
	for _, e := range list.Items {
		n += max(e.Count, 1)
	}
	return n
}

func TestManyPods_RunAndGoInReasonableTime(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	const many = 60
	began := time.Now()
	for i := range many {
		p := pod(fmt.Sprintf("p%d", i), "run")
		p.Labels["app"] = "many"
		s.create(t, ns, p)
	}
	all := func(what string, done func(list []corev1.Pod) bool) {
		eventually(t, what, func() error {
			list, err := s.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
			if err == nil && !done(list.Items) {
				err = fmt.Errorf("not all of %d", len(list.Items))
			}
			return err
		})
		t.Logf("%d Pods %s after %v", many, what, time.Since(began).Round(10*time.Millisecond))
	}
	all("running", func(list []corev1.Pod) bool {
		for i := range list {
			if list[i].Status.Phase != corev1.PodRunning {
				return false
			}
		}
		return len(list) == many
	})
	began = time.Now()
	if err := s.Client.CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	all("gone", func(list []corev1.Pod) bool { return len(list) == 0 })
	s.untilNoMachines(t, ns)
}
