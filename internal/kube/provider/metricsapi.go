package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"gondola"
)

// MetricsAPI serves metrics.k8s.io/v1beta1, from which `kubectl top` and the HorizontalPodAutoscaler read: an aggregated API whose caller,
// the cluster's API server, has authorized the request. It keeps nothing: every request asks the platform, which keeps its answers a few
// seconds.
func (p *Provider) MetricsAPI() http.Handler {
	mux := http.NewServeMux()
	const root = "/apis/metrics.k8s.io/v1beta1"
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET "+root, func(w http.ResponseWriter, _ *http.Request) { writeObject(w, http.StatusOK, metricsResources()) })
	mux.HandleFunc("GET "+root+"/nodes", p.nodeMetrics)
	mux.HandleFunc("GET "+root+"/nodes/{name}", p.nodeMetrics)
	mux.HandleFunc("GET "+root+"/pods", p.podMetrics)
	mux.HandleFunc("GET "+root+"/namespaces/{namespace}/pods", p.podMetrics)
	mux.HandleFunc("GET "+root+"/namespaces/{namespace}/pods/{name}", p.podMetrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	})
	return mux
}

func metricsResources() *metav1.APIResourceList {
	verbs := metav1.Verbs{"get", "list"}
	return &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: metricsv1beta1.SchemeGroupVersion.String(),
		APIResources: []metav1.APIResource{{Name: "nodes", Kind: "NodeMetrics", Verbs: verbs}, {Name: "pods", Kind: "PodMetrics", Namespaced: true, Verbs: verbs}}}
}

// selection is which objects a request wants.
type selection struct {
	namespace, name string
	labels          labels.Selector
	fields          fields.Selector
}

func selectionOf(r *http.Request) (s selection, err error) {
	s.namespace, s.name = r.PathValue("namespace"), r.PathValue("name")
	q := r.URL.Query()
	if s.labels, err = labels.Parse(q.Get("labelSelector")); err != nil {
		return s, err
	}
	s.fields, err = fields.ParseSelector(q.Get("fieldSelector"))
	return s, err
}

func (s selection) has(namespace, name string, set map[string]string) bool {
	return (s.namespace == "" || s.namespace == namespace) && (s.name == "" || s.name == name) && s.labels.Matches(labels.Set(set)) &&
		s.fields.Matches(fields.Set{"metadata.name": name, "metadata.namespace": namespace})
}

func (p *Provider) nodeMetrics(w http.ResponseWriter, r *http.Request) {
	s, err := selectionOf(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	items := []metricsv1beta1.NodeMetrics{}
	for _, name := range p.nodeNames() {
		n := p.engine.nodes[name]
		set := n.labels()
		if !s.has("", name, set) {
			continue
		}
		u, err := p.engine.usage(r.Context(), n)
		if err != nil {
			unavailable(w, err)
			return
		}
		items = append(items, metricsv1beta1.NodeMetrics{TypeMeta: metricsType("NodeMetrics"),
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set, CreationTimestamp: metav1.NewTime(u.time)},
			Timestamp:  metav1.NewTime(u.time), Window: window(u.window), Usage: usageList(u.cpu, u.memory)})
	}
	switch {
	case s.name != "" && len(items) == 0:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("nodemetrics.metrics.k8s.io %q not found", s.name))
	case asTable(r):
		t := table("Name", "CPU", "Memory", "Window")
		for i := range items {
			add(t, &items[i], items[i].Name, items[i].Usage, items[i].Window)
		}
		writeObject(w, http.StatusOK, t)
	case s.name != "":
		writeObject(w, http.StatusOK, &items[0])
	default:
		writeObject(w, http.StatusOK, &metricsv1beta1.NodeMetricsList{TypeMeta: metricsType("NodeMetricsList"), Items: items})
	}
}

func (p *Provider) podMetrics(w http.ResponseWriter, r *http.Request) {
	s, err := selectionOf(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	items, err := p.podUsages(r.Context(), s)
	switch {
	case err != nil:
		unavailable(w, err)
	case s.name != "" && len(items) == 0:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("podmetrics.metrics.k8s.io \"%s/%s\" not found", s.namespace, s.name))
	case asTable(r):
		t := table("Name", "CPU", "Memory", "Window")
		for i := range items {
			sum := corev1.ResourceList{}
			for _, c := range items[i].Containers {
				for name, q := range c.Usage {
					have := sum[name]
					have.Add(q)
					sum[name] = have
				}
			}
			add(t, &items[i], items[i].Name, sum, items[i].Window)
		}
		writeObject(w, http.StatusOK, t)
	case s.name != "":
		writeObject(w, http.StatusOK, &items[0])
	default:
		writeObject(w, http.StatusOK, &metricsv1beta1.PodMetricsList{TypeMeta: metricsType("PodMetricsList"), Items: items})
	}
}

// podUsages asks each region once. A Pod without figures of a moment ago, because it has just been started, is left out, as it is by every
// server of this API: its rate is not known.
func (p *Provider) podUsages(ctx context.Context, s selection) ([]metricsv1beta1.PodMetrics, error) {
	items := []metricsv1beta1.PodMetrics{}
	for _, name := range p.nodeNames() {
		u, err := p.engine.usage(ctx, p.engine.nodes[name])
		if err != nil {
			return nil, err
		}
		for i := range u.pods {
			pu := &u.pods[i]
			if !s.has(pu.pod.Namespace, pu.pod.Name, pu.pod.Labels) {
				continue
			}
			m := metricsv1beta1.PodMetrics{TypeMeta: metricsType("PodMetrics"), Timestamp: metav1.NewTime(pu.Time), Window: window(pu.CPU.Window),
				ObjectMeta: metav1.ObjectMeta{Name: pu.pod.Name, Namespace: pu.pod.Namespace, Labels: pu.pod.Labels, CreationTimestamp: metav1.NewTime(pu.Time)}}
			for _, c := range pu.Containers {
				if c.CPU.Window > 0 {
					m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: usageList(c.CPU, c.Memory)})
				}
			}
			if len(m.Containers) > 0 {
				items = append(items, m)
			}
		}
	}
	slices.SortFunc(items, func(a, b metricsv1beta1.PodMetrics) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return items, nil
}

func (p *Provider) nodeNames() []string {
	var names []string
	for name := range p.engine.nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func metricsType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: metricsv1beta1.SchemeGroupVersion.String()}
}

func window(d time.Duration) metav1.Duration {
	return metav1.Duration{Duration: max(d, time.Second).Round(time.Millisecond)}
}

func usageList(c gondola.CPUStats, m gondola.MemoryStats) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(c.RateNanos, resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(m.WorkingSet, resource.BinarySI),
	}
}

// asTable says whether kubectl wants columns (https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables).
func asTable(r *http.Request) bool {
	first, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	return strings.Contains(first, "as=Table") && strings.Contains(first, "v=v1;") || strings.Contains(first, "as=Table;v=v1")
}

func table(columns ...string) *metav1.Table {
	t := &metav1.Table{TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}, Rows: []metav1.TableRow{}}
	for i, name := range columns {
		d := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if i == 0 {
			d.Format = "name"
		}
		t.ColumnDefinitions = append(t.ColumnDefinitions, d)
	}
	return t
}

func add(t *metav1.Table, object runtime.Object, name string, usage corev1.ResourceList, window metav1.Duration) {
	cpu, memory := usage[corev1.ResourceCPU], usage[corev1.ResourceMemory]
	t.Rows = append(t.Rows, metav1.TableRow{Object: runtime.RawExtension{Object: object},
		Cells: []any{name, fmt.Sprintf("%dm", cpu.MilliValue()), fmt.Sprintf("%dMi", memory.Value()>>20), duration.HumanDuration(window.Duration)}})
}

func unavailable(w http.ResponseWriter, err error) {
	refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, err.Error())
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	writeObject(w, code, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
}

func writeObject(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object) // the caller may have gone
}
