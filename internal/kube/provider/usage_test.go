package provider_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

func TestUsage_IsToldByKubeletAndMetricsAPI(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("used", "run"))
	used := s.until(t, ns, "used", phase(corev1.PodRunning))

	raw := func(path string) []byte {
		t.Helper()
		var out []byte
		eventually(t, path, func() (err error) {
			out, err = s.Client.CoreV1().RESTClient().Get().RequestURI(path).Do(t.Context()).Raw()
			return err
		})
		return out
	}
	var summary statsapi.Summary
	if err := json.Unmarshal(raw("/api/v1/nodes/fra/proxy/stats/summary"), &summary); err != nil {
		t.Fatal(err)
	}
	if fs := summary.Node.Fs; fs == nil || *fs.CapacityBytes != 100<<30 {
		t.Errorf("node's file system = %+v, want that of the worker's host", fs)
	}
	found := false
	for _, p := range summary.Pods {
		if p.PodRef.UID != string(used.UID) {
			continue
		}
		found = true
		if p.PodRef.Name != "used" || len(p.Containers) != 1 || p.Containers[0].CPU.UsageNanoCores == nil || *p.Containers[0].CPU.UsageCoreNanoSeconds == 0 {
			t.Errorf("summary of the pod = %+v", p)
		}
	}
	if !found {
		t.Errorf("summary has no pod %s: %+v", used.UID, summary.Pods)
	}
	if text := string(raw("/api/v1/nodes/fra/proxy/metrics/resource")); !strings.Contains(text, `container_cpu_usage_seconds_total{container="main",pod="used",namespace="`+ns+`"}`) ||
		!strings.Contains(text, "resource_scrape_error 0") {
		t.Errorf("/metrics/resource = %s", text)
	}
	var list metricsv1beta1.PodMetricsList
	if err := json.Unmarshal(raw("/apis/metrics.k8s.io/v1beta1/namespaces/"+ns+"/pods"), &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("pod metrics = %+v, %v; want one", list, err)
	}
	if c := list.Items[0].Containers; len(c) != 1 || c[0].Name != "main" || c[0].Usage.Cpu().MilliValue() < 50 || c[0].Usage.Cpu().MilliValue() > 200 {
		t.Errorf("containers = %+v, want main with the tenth of a core that a fake container uses", c)
	}
	if err := json.Unmarshal(raw("/apis/metrics.k8s.io/v1beta1/pods?labelSelector=no%3Dsuch"), &list); err != nil || len(list.Items) != 0 {
		t.Errorf("pod metrics of other labels = %+v, %v", list.Items, err)
	}
	var node metricsv1beta1.NodeMetrics
	if err := json.Unmarshal(raw("/apis/metrics.k8s.io/v1beta1/nodes/fra"), &node); err != nil || node.Usage.Cpu().MilliValue() < 50 {
		t.Errorf("node metrics = %+v, %v", node, err)
	}
	_, err := s.Client.CoreV1().RESTClient().Get().RequestURI("/apis/metrics.k8s.io/v1beta1/namespaces/" + ns + "/pods/none").Do(t.Context()).Raw()
	if !apierrors.IsNotFound(err) {
		t.Errorf("metrics of a pod that is not there = %v", err)
	}
}

func TestEviction_EmptyDirBeyondItsLimit(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("greedy", "run")
	limit := resource.MustParse("1Mi")
	p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	s.create(t, ns, p)
	s.until(t, ns, "greedy", phase(corev1.PodRunning))
	dir := filepath.Join(s.Dir, "host", "machines", string(s.machines(t, ns)[0].ID), "volumes", "scratch")
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "eviction", func() error {
		got, err := s.Client.CoreV1().Pods(ns).Get(t.Context(), "greedy", metav1.GetOptions{})
		if err == nil && (got.Status.Phase != corev1.PodFailed || got.Status.Reason != "Evicted") {
			err = fmt.Errorf("phase %s, reason %q", got.Status.Phase, got.Status.Reason)
		}
		if err == nil && got.Status.Message != `Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". ` {
			t.Fatalf("message = %q, want the kubelet's", got.Status.Message)
		}
		return err
	})
	eventually(t, "its disk space is free again", func() error {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the volume is there: %v", err)
		}
		return nil
	})
}

func TestPressure_WhatHasEndedGoesBeforeWhatRuns(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("done", "exit", "0"))
	s.create(t, ns, pod("runs", "run"))
	s.until(t, ns, "done", phase(corev1.PodSucceeded))
	s.until(t, ns, "runs", phase(corev1.PodRunning))
	healthy := s.Host.Stats()
	t.Cleanup(func() { s.Host.SetStats(healthy) })
	full := healthy
	full.Disk.Available = 1 << 20
	s.Host.SetStats(full)
	eventually(t, "the machine of what has ended is gone", func() error {
		list := s.machines(t, ns)
		if len(list) != 1 {
			return fmt.Errorf("%d machines", len(list))
		}
		s.Host.SetStats(healthy) // there is room again
		return nil
	})
	s.until(t, ns, "runs", phase(corev1.PodRunning))
	if got := s.until(t, ns, "done", phase(corev1.PodSucceeded)); got.Status.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("status %+v, want how it ended", got.Status.ContainerStatuses)
	}
}

func TestPressure_IsToldAndRelieved(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	small, large := pod("small", "run"), pod("large", "alloc", "52428800", ";", "run")
	small.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
	s.create(t, ns, small)
	s.create(t, ns, large)
	s.until(t, ns, "small", phase(corev1.PodRunning))
	s.until(t, ns, "large", phase(corev1.PodRunning))
	healthy := s.Host.Stats()
	low := healthy
	low.MemoryAvailable = 50 << 20
	s.Host.SetStats(low)
	t.Cleanup(func() { s.Host.SetStats(healthy) })
	pressure := func(want corev1.ConditionStatus) {
		t.Helper()
		eventually(t, "condition MemoryPressure", func() error {
			n, err := s.Client.CoreV1().Nodes().Get(t.Context(), "fra", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeMemoryPressure && c.Status != want {
					return fmt.Errorf("%s: %s %s, want %s", c.Status, c.Reason, c.Message, want)
				}
			}
			return nil
		})
	}
	pressure(corev1.ConditionTrue)
	gone := s.until(t, ns, "large", phase(corev1.PodFailed))
	if gone.Status.Reason != "Evicted" || !strings.HasPrefix(gone.Status.Message, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container main was using ") {
		t.Errorf("reason %q, message %q", gone.Status.Reason, gone.Status.Message)
	}
	s.Host.SetStats(healthy)
	pressure(corev1.ConditionFalse)
	for _, c := range gone.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet {
			s.until(t, ns, "small", phase(corev1.PodRunning))
			return
		}
	}
	t.Errorf("conditions = %+v, want DisruptionTarget", gone.Status.Conditions)
}
