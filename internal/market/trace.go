package market

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"gondola"
)

// watch makes a purchase known to those who watch over the platform: a span of its trace, and its Outcome.
func (p *purchase) watch(ctx context.Context) (context.Context, func(gondola.Machine, error)) {
	ctx, s := otel.Tracer("gondola/market").Start(ctx, "market purchase", trace.WithAttributes(attribute.String("app", string(p.app.Name)),
		attribute.String("wants", p.ask.Requests.String())))
	return ctx, func(m gondola.Machine, err error) {
		outcome := Placed
		switch {
		case errors.Is(err, gondola.ErrCapacity):
			outcome = Refused
		case err != nil:
			outcome = Failed
		default:
			s.SetAttributes(attribute.String("machine", string(m.ID)), attribute.String("region", string(m.Region)))
		}
		if err != nil {
			s.SetStatus(codes.Error, err.Error())
		}
		s.End()
		if p.m.observe != nil {
			p.m.observe(inOrder(p.wanted), outcome, time.Since(p.begin))
		}
	}
}
