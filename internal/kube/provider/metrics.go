package provider

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"k8s.io/component-base/metrics/legacyregistry"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// statsSummary serves /stats/summary.
func (k *kubelet) statsSummary(w http.ResponseWriter, r *http.Request) {
	only, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory"))
	u, err := k.node.engine.usage(r.Context(), k.node)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(u.summary(k.node, only))
}

// resourceMetrics serves /metrics/resource: what a kubelet has there for Prometheus.
func (k *kubelet) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	w.Header().Set("Content-Type", string(format))
	enc := expfmt.NewEncoder(w, format)
	for _, f := range k.node.resourceMetrics(r.Context()) {
		if err := enc.Encode(f); err != nil {
			return // the reader has gone
		}
	}
	if c, ok := enc.(expfmt.Closer); ok {
		_ = c.Close()
	}
}

// ownMetrics serves /metrics: those of this process, which all parts of Kubernetes in it share.
func (k *kubelet) ownMetrics(w http.ResponseWriter, r *http.Request) {
	legacyregistry.Handler().ServeHTTP(w, r)
}

// resourceMetrics returns the families of /metrics/resource, named as in k8s.io/kubernetes/pkg/kubelet/metrics/collectors.
func (n *node) resourceMetrics(ctx context.Context) []*dto.MetricFamily {
	u, err := n.engine.usage(ctx, n)
	failed := family("resource_scrape_error", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise", dto.MetricType_GAUGE)
	if err != nil {
		n.engine.log.Warn("usage of Pods cannot be had", "node", n.Name, "err", err)
		failed.add(1, time.Time{})
		return []*dto.MetricFamily{failed.MetricFamily}
	}
	failed.add(0, time.Time{})
	counter, gauge := dto.MetricType_COUNTER, dto.MetricType_GAUGE
	cpu := family("container_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the container in core-seconds", counter)
	memory := family("container_memory_working_set_bytes", "[STABLE] Current working set of the container in bytes", gauge)
	start := family("container_start_time_seconds", "[STABLE] Start time of the container since unix epoch in seconds", gauge)
	nodeCPU := family("node_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the node in core-seconds", counter)
	nodeMemory := family("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes", gauge)
	podCPU := family("pod_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", counter)
	podMemory := family("pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes", gauge)
	s := u.summary(n, true)
	nodeCPU.addCPU(s.Node.CPU)
	nodeMemory.addMemory(s.Node.Memory)
	for _, p := range s.Pods {
		for _, c := range p.Containers {
			labels := []string{"container", c.Name, "pod", p.PodRef.Name, "namespace", p.PodRef.Namespace}
			cpu.addCPU(c.CPU, labels...)
			memory.addMemory(c.Memory, labels...)
			start.add(float64(c.StartTime.UnixNano())/1e9, time.Time{}, labels...)
		}
		ref := []string{"namespace", p.PodRef.Namespace, "pod", p.PodRef.Name} // virtual-kubelet's suite reads labels by their place
		podCPU.addCPU(p.CPU, ref...)
		podMemory.addMemory(p.Memory, ref...)
	}
	var out []*dto.MetricFamily
	for _, f := range []metricFamily{cpu, memory, start, nodeCPU, nodeMemory, podCPU, podMemory, failed} {
		if len(f.Metric) > 0 {
			out = append(out, f.MetricFamily)
		}
	}
	return out
}

type metricFamily struct{ *dto.MetricFamily }

func family(name, help string, kind dto.MetricType) metricFamily {
	return metricFamily{&dto.MetricFamily{Name: &name, Help: &help, Type: &kind}}
}

// add adds a value; labels are names and values in turn. A zero time is left out.
func (f metricFamily) add(value float64, at time.Time, labels ...string) {
	m := &dto.Metric{}
	for i := 0; i+1 < len(labels); i += 2 {
		m.Label = append(m.Label, &dto.LabelPair{Name: &labels[i], Value: &labels[i+1]})
	}
	if *f.Type == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	if !at.IsZero() {
		ms := at.UnixMilli()
		m.TimestampMs = &ms
	}
	f.Metric = append(f.Metric, m)
}

func (f metricFamily) addCPU(c *statsapi.CPUStats, labels ...string) {
	f.add(float64(*c.UsageCoreNanoSeconds)/1e9, c.Time.Time, labels...)
}

func (f metricFamily) addMemory(m *statsapi.MemoryStats, labels ...string) {
	f.add(float64(*m.WorkingSetBytes), m.Time.Time, labels...)
}
