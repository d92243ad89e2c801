package daemon

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
)

// startTraces sends the traces of this process to a collector from now on: a Pod's way from the provider over API and market to the worker's
// steps. Without a collector nothing is made and nothing is sent. stop sends what is left, for a second at most.
func startTraces(ctx context.Context, collector, version string) (stop func(), err error) {
	if collector == "" {
		return func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(collector), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("traces to %s: %w", collector, err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter, sdk.WithBatchTimeout(time.Second)),
		sdk.WithResource(resource.NewWithAttributes(semconv.SchemaURL, semconv.ServiceName("gondola"), semconv.ServiceVersion(version))))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = provider.Shutdown(ctx) // a collector that is gone must not keep the daemon
	}, nil
}

// traced takes requests into the trace that their headers name, streams left out: they last as long as somebody listens.
func (p *platform) traced(h http.Handler) http.Handler {
	if p.Config.Traces == "" {
		return h
	}
	return otelhttp.NewHandler(h, "api", otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + r.URL.Path }),
		otelhttp.WithFilter(func(r *http.Request) bool { return !isStream(r.URL.Path) }))
}

func isStream(path string) bool {
	for _, end := range []string{"/watch", "/logs", "/exec", "/attach", "/dial", "/wait"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// tracedClient is the HTTP client of Kubernetes towards the platform; nil where nobody takes traces.
func (p *platform) tracedClient() *http.Client {
	if p.Config.Traces == "" {
		return nil
	}
	return &http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport.(*http.Transport).Clone(),
		otelhttp.WithFilter(func(r *http.Request) bool { return !isStream(r.URL.Path) }))}
}
