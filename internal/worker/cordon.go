package worker

import (
	"context"

	"gondola"
)

// Cordon implements gondola.Machines.
func (w *Worker) Cordon(ctx context.Context, ref gondola.Ref) error {
	return w.setCordoned(ctx, ref, true)
}

// Uncordon implements gondola.Machines.
func (w *Worker) Uncordon(ctx context.Context, ref gondola.Ref) error {
	return w.setCordoned(ctx, ref, false)
}

func (w *Worker) setCordoned(ctx context.Context, ref gondola.Ref, on bool) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	return m.change(ctx, func(ctx context.Context) error {
		if m.rec.Cordoned == on {
			return nil
		}
		kind := "cordon"
		if !on {
			kind = "uncordon"
		}
		return m.commit(ctx, func(r *record) { r.Cordoned = on }, event{kind: kind, source: "user"})
	})
}
