package kube

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	registry "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/fake"
)

// `kubectl top` goes on when a metrics server that somebody has installed is removed, and with it what it had taken over.
func TestMetrics_AreRegisteredAgainWhenAnotherServerIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const name = "v1beta1.metrics.k8s.io"
		client, aggregator := fake.NewClientset(), registry.NewClientset()
		services, roles := aggregator.ApiregistrationV1().APIServices(), client.RbacV1().ClusterRoles()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			keepMetrics(ctx, client, aggregator, netip.MustParseAddr("10.99.0.1"), []byte("authority"))
		}()
		defer func() {
			stop()
			<-ended
		}()
		ours := func() *apiregistrationv1.APIService {
			t.Helper()
			time.Sleep(61 * time.Second)
			synctest.Wait()
			s, err := services.Get(ctx, name, metav1.GetOptions{})
			if err != nil || s.Spec.Service == nil || s.Spec.Service.Name != metricsService {
				t.Fatalf("the metrics API is that of %v (%v), want ours", s.Spec.Service, err)
			}
			if _, err := roles.Get(ctx, metricsReader, metav1.GetOptions{}); err != nil {
				t.Errorf("the role of readers: %v", err)
			}
			return s
		}
		s := ours()
		client.ClearActions()
		aggregator.ClearActions()
		ours()
		for _, a := range append(client.Actions(), aggregator.Actions()...) {
			if a.GetVerb() != "get" {
				t.Errorf("%s of %s, though all was as it should be", a.GetVerb(), a.GetResource().Resource)
			}
		}

		s.Spec.Service = &apiregistrationv1.ServiceReference{Namespace: "kube-system", Name: "metrics-server"}
		if _, err := services.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if s, err := services.Get(ctx, name, metav1.GetOptions{}); err != nil || s.Spec.Service.Name != "metrics-server" {
			t.Fatalf("the metrics API is that of %v (%v), want the other server's", s.Spec.Service, err)
		}
		if err := services.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := roles.Delete(ctx, metricsReader, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		ours()
	})
}
