package worker

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// span begins a span of a Machine's launch, as part of the trace of the request that created the Machine. Where nobody takes traces it costs
// nothing.
func (m *machine) span(ctx context.Context, name string) (context.Context, func(error)) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, m.origin)
	}
	ctx, s := otel.Tracer("gondola/worker").Start(ctx, name, trace.WithAttributes(attribute.String("machine", string(m.id)), attribute.String("app", string(m.app))))
	return ctx, func(err error) {
		if err != nil {
			s.SetStatus(codes.Error, err.Error())
		}
		s.End()
	}
}
