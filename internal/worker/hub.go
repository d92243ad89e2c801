package worker

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"gondola"
)

// watchBuffer is how many changes a reader may be behind before its stream ends.
const watchBuffer = 4096

// hub holds what the outside sees: the present view of every Machine, those who watch and those who wait. Views are never changed, only
// replaced.
type hub struct {
	mu      sync.Mutex
	views   map[gondola.MachineID]*gondola.Machine
	byAge   []*gondola.Machine // the views, oldest first
	waiters map[gondola.MachineID]map[*waiter]struct{}
	subs    map[*subscription]struct{}
	closed  bool
}

type waiter struct {
	over  func(*gondola.Machine) (gondola.WaitResult, bool) // whether there is nothing more to wait for, and what came of it
	found chan gondola.WaitResult                           // of 1
}

type subscription struct {
	req   gondola.WatchRequest
	queue chan gondola.Change // closed when the reader is too slow or the worker ends
}

func newHub() *hub {
	return &hub{views: map[gondola.MachineID]*gondola.Machine{}, waiters: map[gondola.MachineID]map[*waiter]struct{}{}, subs: map[*subscription]struct{}{}}
}

// publish replaces the view of a Machine and tells everybody. A destroyed one is told and dropped.
func (h *hub) publish(worker gondola.WorkerName, v *gondola.Machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.putLocked(v)
	for w := range h.waiters[v.ID] {
		if res, ok := w.over(v); ok {
			w.found <- res
			h.dropLocked(v.ID, w)
		}
	}
	for s := range h.subs {
		if s.wants(v) {
			h.sendLocked(s, gondola.Change{Worker: worker, Machine: v})
		}
	}
}

func (h *hub) putLocked(v *gondola.Machine) {
	i, known := slices.BinarySearchFunc(h.byAge, v, older)
	switch {
	case v.State != gondola.Destroyed && known:
		h.byAge[i], h.views[v.ID] = v, v
	case v.State != gondola.Destroyed:
		h.byAge, h.views[v.ID] = slices.Insert(h.byAge, i, v), v
	case known:
		h.byAge = slices.Delete(h.byAge, i, i+1)
		delete(h.views, v.ID)
	}
}

// offer tells those who want offers; it is computed only if there are any.
func (h *hub) offer(offer func() *gondola.Offer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var o *gondola.Offer
	for s := range h.subs {
		if !s.req.Offers {
			continue
		}
		if o == nil {
			o = offer()
		}
		h.sendLocked(s, gondola.Change{Worker: o.Worker, Offer: o})
	}
}

// heartbeat tells everybody that the worker is there.
func (h *hub) heartbeat(worker gondola.WorkerName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		h.sendLocked(s, gondola.Change{Worker: worker, Heartbeat: true})
	}
}

func (h *hub) sendLocked(s *subscription, c gondola.Change) {
	select {
	case s.queue <- c:
	default:
		h.endLocked(s)
	}
}

func (h *hub) endLocked(s *subscription) {
	if _, ok := h.subs[s]; ok {
		delete(h.subs, s)
		close(s.queue)
	}
}

func (s *subscription) wants(v *gondola.Machine) bool {
	if len(s.req.Metadata) == 0 {
		return true
	}
	return v.Config != nil && hasMetadata(v.Config.Metadata, s.req.Metadata)
}

func hasMetadata(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// close ends all streams.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subs {
		h.endLocked(s)
	}
}

func (h *hub) view(id gondola.MachineID) *gondola.Machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.views[id]
}

// list returns the views that keep says, oldest first.
func (h *hub) list(keep func(*gondola.Machine) bool) []*gondola.Machine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listLocked(keep)
}

func (h *hub) listLocked(keep func(*gondola.Machine) bool) []*gondola.Machine {
	var vs []*gondola.Machine
	for _, v := range h.byAge {
		if keep(v) {
			vs = append(vs, v)
		}
	}
	return vs
}

// older orders by age, which never changes.
func older(a, b *gondola.Machine) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
}

// subscribe returns the Machines of the moment and a subscription to all that comes behind them.
func (h *hub) subscribe(req gondola.WatchRequest) ([]*gondola.Machine, *subscription, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, nil, gondola.Errorf(gondola.ErrUnavailable, "the worker is going down: watch again when it is back")
	}
	s := &subscription{req: req, queue: make(chan gondola.Change, watchBuffer)}
	h.subs[s] = struct{}{}
	return h.listLocked(s.wants), s, nil
}

func (h *hub) unsubscribe(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endLocked(s)
}

// await registers w unless its wait is over with the Machine's present view, which it is then told.
func (h *hub) await(id gondola.MachineID, w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.views[id]; v != nil {
		if res, ok := w.over(v); ok {
			w.found <- res
			return
		}
	}
	if h.waiters[id] == nil {
		h.waiters[id] = map[*waiter]struct{}{}
	}
	h.waiters[id][w] = struct{}{}
}

func (h *hub) drop(id gondola.MachineID, w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(id, w)
}

func (h *hub) dropLocked(id gondola.MachineID, w *waiter) {
	delete(h.waiters[id], w)
	if len(h.waiters[id]) == 0 {
		delete(h.waiters, id)
	}
}

// Watch streams what changes, as gondola.Watcher says. A reader that falls behind by more than 4096 changes finds its channel closed.
func (w *Worker) Watch(ctx context.Context, req gondola.WatchRequest) (<-chan gondola.Change, error) {
	if err := w.awaitRun(ctx); err != nil {
		return nil, err
	}
	views, sub, err := w.hub.subscribe(req)
	if err != nil {
		return nil, err
	}
	out := make(chan gondola.Change)
	w.tasks.Go(func() {
		defer close(out)
		defer w.hub.unsubscribe(sub)
		send := func(c gondola.Change) bool {
			select {
			case out <- c:
				return true
			case <-ctx.Done():
			case <-w.base.Done():
			}
			return false
		}
		for _, v := range views {
			if !send(gondola.Change{Worker: w.cfg.Name, Machine: v}) {
				return
			}
		}
		if req.Offers && !send(gondola.Change{Worker: w.cfg.Name, Offer: w.offer()}) {
			return
		}
		if !send(gondola.Change{Worker: w.cfg.Name, Synced: true}) {
			return
		}
		for {
			select {
			case c, ok := <-sub.queue:
				if !ok || !send(c) {
					return
				}
			case <-ctx.Done():
				return
			case <-w.base.Done():
				return
			}
		}
	})
	return out, nil
}
