package provider_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
)

func TestNode_ShowsItsRegion(t *testing.T) {
	s := theSystem(t)
	var n *corev1.Node
	eventually(t, "node without taints: charts that do not know us must run", func() (err error) {
		n, err = s.Client.CoreV1().Nodes().Get(t.Context(), "fra", metav1.GetOptions{})
		if err == nil && len(n.Spec.Taints) > 0 { // not-ready, until a controller has seen that it is
			err = fmt.Errorf("taints %v", n.Spec.Taints)
		}
		return err
	})
	if got := n.Labels[corev1.LabelTopologyRegion]; got != "fra" {
		t.Errorf("region label %q, want fra", got)
	}
	if cpu, mem := n.Status.Capacity.Cpu().MilliValue(), n.Status.Capacity.Memory().Value(); cpu != 8000 || mem != 16<<30 {
		t.Errorf("capacity %d millicores and %d bytes, want what the worker has", cpu, mem)
	}
	for _, c := range n.Status.Conditions {
		if want := map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}[c.Type == corev1.NodeReady]; c.Status != want {
			t.Errorf("condition %s is %s, want %s", c.Type, c.Status, want)
		}
	}
	lease, err := s.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), "fra", metav1.GetOptions{})
	if err != nil || time.Since(lease.Spec.RenewTime.Time) > 40*time.Second {
		t.Errorf("lease %+v, %v: want one that is renewed", lease.Spec, err)
	}
}

func TestNode_OffersLessWhereOthersHaveMachines(t *testing.T) {
	s := theSystem(t)
	if _, err := s.Market.CreateApp(t.Context(), gondola.NewApp{Name: "others", Org: gondola.Org}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Market.DeleteApp(context.Background(), "others") })
	m, err := s.Market.Create(t.Context(), "others", gondola.CreateRequest{Config: gondola.Config{Image: "test/program",
		Guest: &gondola.Guest{CPUKind: "performance", CPUs: 2, MemoryMB: 4096}}})
	if err != nil {
		t.Fatal(err)
	}
	allocatable := func(cpu, mem int64) {
		eventually(t, "allocatable", func() error {
			n, err := s.Client.CoreV1().Nodes().Get(t.Context(), "fra", metav1.GetOptions{})
			if err == nil && (n.Status.Allocatable.Cpu().MilliValue() != cpu || n.Status.Allocatable.Memory().Value() != mem) {
				err = fmt.Errorf("%v, want %d millicores and %d bytes", n.Status.Allocatable, cpu, mem)
			}
			return err
		})
	}
	allocatable(6000, 12<<30)
	if err := s.Market.Destroy(t.Context(), m.Ref(), true); err != nil {
		t.Fatal(err)
	}
	allocatable(8000, 16<<30)
}

func TestNamespace_TakesItsAppWithIt(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("guest", "run"))
	s.until(t, ns, "guest", phase(corev1.PodRunning))
	app := gondola.AppOfNamespace("test", ns)
	if got, err := s.Market.App(t.Context(), app); err != nil || got.Network != "test" {
		t.Fatalf("App(%s) = %+v, %v: want one in the cluster's network", app, got, err)
	}
	if err := s.Client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "app", func() error {
		_, err := s.Market.App(t.Context(), app)
		if errors.Is(err, gondola.ErrNotFound) {
			return nil
		}
		return fmt.Errorf("App = %v, want not found", err)
	})
}
