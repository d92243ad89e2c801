package kube_test

import (
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"gondola"
	"gondola/internal/gondolatest"
	"gondola/internal/kube/kubetest"
)

// BenchmarkPods measures the control plane alone: a Deployment of b.N Pods whose Machines start at once (driver/fake), from its creation until a
// watch has seen all of them run. Say how many with -benchtime=400x.
func BenchmarkPods(b *testing.B) {
	kubetest.NeedNetNS(b)
	platform := gondolatest.New(b, gondolatest.Options{Regions: []gondola.Region{"local", "fra"},
		Total: gondola.Resources{CPUMillis: 1_000_000, MemoryBytes: 1 << 40}})
	cfg := config(b, filepath.Join(b.TempDir(), "test"))
	cfg.Platform, cfg.Apps, cfg.Progress = platform.Client, platform.Client, nil
	c := start(b, cfg)
	b.Cleanup(func() { c.Stop() })
	client := c.Client
	running, all := map[types.UID]bool{}, make(chan struct{})
	factory := informers.NewSharedInformerFactory(client, 0) // lists again when a busy API server ends its watch
	see := func(obj any) {
		if p := obj.(*corev1.Pod); p.Namespace == "default" && p.Status.Phase == corev1.PodRunning && !running[p.UID] {
			if running[p.UID] = true; len(running) == b.N {
				close(all)
			}
		}
	}
	pods := factory.Core().V1().Pods().Informer()
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }}); err != nil {
		b.Fatal(err)
	}
	factory.Start(b.Context().Done())
	factory.WaitForCacheSync(b.Context().Done())
	replicas, labels := int32(b.N), map[string]string{"app": "many"}
	before := cpuTime()
	b.ResetTimer()
	_, err := client.AppsV1().Deployments("default").Create(b.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "many"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("1m", "1Mi")}}}, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	select {
	case <-all:
	case <-time.After(5 * time.Minute):
		b.Fatalf("not all of %d Pods run after 5 minutes", b.N)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "Pods/s")
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/1000/float64(b.N), "CPU-ms/Pod")
}
