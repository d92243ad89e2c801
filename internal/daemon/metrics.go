package daemon

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gondola"
	"gondola/internal/market"
	"gondola/internal/worker"
)

// metrics are what GET /metrics of the API shows, in Prometheus' format; docs/operating.md lists them. Parts of the platform know nothing of
// it: they tell what happened, and state is read when somebody asks.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.HistogramVec
	purchases *prometheus.HistogramVec
	pods      *prometheus.HistogramVec
}

func newMetrics(version string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gondola_api_request_duration_seconds",
			Help:    "Time to answer a request of the Machines API. Streams (logs, watches, exec, waits) are left out.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"route", "code"}),
		purchases: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gondola_market_purchase_duration_seconds",
			Help:    "Time from a create until a worker took the Machine or all refused, by the regions asked.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1}}, []string{"regions", "outcome"}),
		pods: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gondola_pod_start_duration_seconds",
			Help:    "Time from the moment a Pod was seen on its node until it was told to be Running, image pulls included.",
			Buckets: []float64{.05, .1, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300}}, []string{"region"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "gondola_build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.purchases, m.pods, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// answered counts a request of the API.
func (m *metrics) answered(route string, code int, took time.Duration) {
	if _, path, _ := strings.Cut(route, " "); !isStream(path) {
		m.requests.WithLabelValues(route, strconv.Itoa(code)).Observe(took.Seconds())
	}
}

// purchased counts a create at the market.
func (m *metrics) purchased(regions []gondola.Region, outcome market.Outcome, took time.Duration) {
	words := make([]string, len(regions))
	for i, r := range regions {
		words[i] = string(r)
	}
	m.purchases.WithLabelValues(strings.Join(words, ","), string(outcome)).Observe(took.Seconds())
}

// podStarted counts a Pod that came to run.
func (m *metrics) podStarted(region gondola.Region, took time.Duration) {
	m.pods.WithLabelValues(string(region)).Observe(took.Seconds())
}

// watch shows the state of the workers, as of the moment when somebody asks.
func (m *metrics) watch(machines gondola.Machines, workers []*worker.Worker) {
	m.registry.MustRegister(&state{machines: machines, workers: workers})
}

// state is a prometheus.Collector of what workers have and do.
type state struct {
	machines gondola.Machines
	workers  []*worker.Worker
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe sends nothing: what there is depends on the Machines.
func (s *state) Describe(chan<- *prometheus.Desc) {}

// Collect reads the workers.
func (s *state) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s.collectMachines(ctx, out)
	cpu := describe("gondola_worker_cpu_cores", "CPU of a worker: what it has, what is taken.", "worker", "kind")
	memory := describe("gondola_worker_memory_bytes", "Memory of a worker: what it has, what is taken.", "worker", "kind")
	pilots := describe("gondola_worker_pilot_restarts_total", "Pilots started for a sandbox that had lost its own.", "worker")
	losses := describe("gondola_worker_sandbox_losses_total", "Sandboxes that died by themselves.", "worker")
	for _, w := range s.workers {
		f := w.Figures()
		name := string(f.Worker)
		gauge := func(d *prometheus.Desc, v float64, kind string) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, name, kind)
		}
		gauge(cpu, float64(f.Capacity.CPUMillis)/1000, "capacity")
		gauge(cpu, float64(f.Allocated.CPUMillis)/1000, "allocated")
		gauge(memory, float64(f.Capacity.MemoryBytes), "capacity")
		gauge(memory, float64(f.Allocated.MemoryBytes), "allocated")
		out <- prometheus.MustNewConstMetric(pilots, prometheus.CounterValue, float64(f.PilotRestarts), name)
		out <- prometheus.MustNewConstMetric(losses, prometheus.CounterValue, float64(f.SandboxLosses), name)
	}
}

// collectMachines counts Machines by state.
func (s *state) collectMachines(ctx context.Context, out chan<- prometheus.Metric) {
	d := describe("gondola_machines", "Machines by region and state.", "region", "state")
	all, err := s.machines.List(ctx, "", gondola.ListFilter{})
	if err != nil {
		out <- prometheus.NewInvalidMetric(d, err)
		return
	}
	type key struct {
		region gondola.Region
		state  gondola.State
	}
	counts := map[key]int{}
	for i := range all {
		counts[key{all[i].Region, all[i].State}]++
	}
	for k, n := range counts {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), string(k.region), string(k.state))
	}
}
