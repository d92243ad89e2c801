package daemon

import (
	"context"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"gondola"
	"gondola/internal/market"
)

// sink is a collector of traces.
type sink struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
}

func (s *sink) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, span := range ss.Spans {
				s.names = append(s.names, span.Name)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestTraces_ReachTheCollectorAtTheLatestAtTheEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, g := &sink{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(g, s)
	go g.Serve(l)
	defer g.Stop()
	before := otel.GetTracerProvider()
	defer otel.SetTracerProvider(before)
	stop, err := startTraces(t.Context(), l.Addr().String(), "test")
	if err != nil {
		t.Fatal(err)
	}
	_, span := otel.Tracer("test").Start(t.Context(), "way of a Pod")
	span.End()
	stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Join(s.names, " ") != "way of a Pod" {
		t.Errorf("the collector has spans %q, want the one there was", s.names)
	}
}

func TestMetrics_TellWhatHappened(t *testing.T) {
	m := newMetrics("test")
	m.answered("GET /v1/apps/{app}", 404, 20*time.Millisecond)
	m.answered("GET /v1/gondola/watch", 200, time.Hour)
	m.purchased([]gondola.Region{"fra", "ams"}, market.Refused, time.Millisecond)
	m.podStarted("fra", 300*time.Millisecond)
	w := httptest.NewRecorder()
	m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`gondola_build_info{version="test"} 1`, `gondola_api_request_duration_seconds_count{code="404",route="GET /v1/apps/{app}"} 1`,
		`gondola_market_purchase_duration_seconds_count{outcome="refused",regions="fra,ams"} 1`, `gondola_pod_start_duration_seconds_count{region="fra"} 1`} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("/metrics has no line %q", want)
		}
	}
	if strings.Contains(w.Body.String(), "/v1/gondola/watch") {
		t.Error("a stream counts among the latencies")
	}
}
