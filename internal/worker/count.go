package worker

import (
	"sync/atomic"

	"gondola"
)

// counts are what the worker did since it was opened.
type counts struct {
	pilots, losses atomic.Uint64
}

// Figures are what whoever watches over a worker wants to know of it at a glance.
type Figures struct {
	Worker              gondola.WorkerName
	Capacity, Allocated gondola.Resources
	PilotRestarts       uint64 // since it was opened: pilots started for a sandbox that had lost its own
	SandboxLosses       uint64 // since it was opened: sandboxes that died by themselves
}

// Figures returns those of the moment.
func (w *Worker) Figures() Figures {
	free, _ := w.ledger.free()
	return Figures{Worker: w.cfg.Name, Capacity: w.cfg.Capacity, Allocated: w.cfg.Capacity.Sub(free), PilotRestarts: w.counts.pilots.Load(), SandboxLosses: w.counts.losses.Load()}
}
