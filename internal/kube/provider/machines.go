package provider

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"gondola"
	"gondola/internal/kube/translate"
)

// follow keeps the index of the cluster's Machines and the offers current until ctx ends, by watching, or by polling where the platform has
// no watch. synced is called once, when the first whole picture is in.
func (e *engine) follow(ctx context.Context, synced func()) {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; {
		err := e.watchOnce(ctx, synced)
		if errors.Is(err, gondola.ErrUnsupported) || errors.Is(err, gondola.ErrNotFound) {
			e.poll(ctx, synced)
			return
		}
		if err != nil && ctx.Err() == nil {
			e.log.Warn("watch of Machines broke", "err", err)
			wait = min(2*wait, 5*time.Second)
		} else {
			wait = 100 * time.Millisecond
		}
		pause(ctx, wait)
	}
}

// watchOnce reads one stream to its end. For every worker, what was not in the beginning of the stream is gone.
func (e *engine) watchOnce(ctx context.Context, synced func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := e.cfg.Platform.Watch(ctx, gondola.WatchRequest{Metadata: e.clusterMetadata(), Offers: true})
	if err != nil {
		return err
	}
	began := time.Now()
	seen := map[gondola.WorkerName]map[gondola.MachineID]bool{}
	told := map[gondola.WorkerName]bool{} // workers whose picture is complete
	for c := range stream {
		switch {
		case c.Machine != nil:
			if seen[c.Worker] == nil {
				seen[c.Worker] = map[gondola.MachineID]bool{}
			}
			seen[c.Worker][c.Machine.ID] = true
			e.take(c.Machine, c.Worker, !told[c.Worker])
		case c.Offer != nil:
			e.offers.put(*c.Offer)
		case c.Synced:
			told[c.Worker] = true
			e.sweep(c.Worker, seen[c.Worker], began)
			synced()
		case c.Lost:
			began = time.Now()
			delete(seen, c.Worker) // what follows is a new beginning
			delete(told, c.Worker)
			e.offers.lose(c.Worker)
			e.log.Warn("worker does not answer", "worker", c.Worker)
		case c.Heartbeat:
		}
	}
	return nil
}

// poll replaces the watch on an API that has none.
func (e *engine) poll(ctx context.Context, synced func()) {
	e.log.Info("the platform has no watch: polling every 2 s")
	e.offers.unlimited()
	for ctx.Err() == nil {
		began := time.Now()
		list, err := e.cfg.Platform.List(ctx, "", gondola.ListFilter{Metadata: e.clusterMetadata()})
		if err != nil {
			e.log.Warn("list of Machines failed", "err", err)
		} else {
			seen := map[gondola.MachineID]bool{}
			for i := range list {
				seen[list[i].ID] = true
				e.take(&list[i], "", true)
			}
			e.sweep("", seen, began)
			synced()
		}
		pause(ctx, 2*time.Second)
	}
}

func (e *engine) clusterMetadata() map[string]string {
	return map[string]string{translate.MetadataCluster: e.cfg.Cluster}
}

// putMachine takes a Machine as an answer of the platform told it.
func (e *engine) putMachine(m *gondola.Machine) { e.take(m, "", false) }

// take takes a Machine's newest state; an older one than what is known changes nothing, except where it is part of a picture that is the
// whole truth.
func (e *engine) take(m *gondola.Machine, worker gondola.WorkerName, truth bool) {
	uid := uidOf(m)
	if uid == "" {
		return
	}
	e.mu.Lock()
	t := e.trackLocked(uid)
	if !truth && t.machine != nil && t.machine.ID == m.ID && seq(m) < seq(t.machine) {
		e.mu.Unlock()
		return
	}
	t.machine, t.told = m, time.Now()
	if worker == "" && m.Gondola != nil {
		worker = m.Gondola.Worker
	}
	t.worker = worker
	var waiting []types.UID
	if m.State == gondola.Destroyed {
		waiting = e.waitingLocked(m.ID)
	}
	e.mu.Unlock()
	e.offers.touch()
	e.policies.touch()
	for _, uid := range append(waiting, uid) {
		e.queue.Add(uid)
	}
}

// sweep marks the Machines of a worker (of all, without its name) that its complete picture does not have as destroyed, except those of
// which something was heard since the picture was begun: they may be younger.
func (e *engine) sweep(worker gondola.WorkerName, seen map[gondola.MachineID]bool, began time.Time) {
	e.mu.Lock()
	var gone []types.UID
	for uid, t := range e.pods {
		if t.machine == nil || t.machine.State == gondola.Destroyed || seen[t.machine.ID] || t.told.After(began) {
			continue
		}
		if worker != "" && t.worker != worker {
			continue
		}
		m := *t.machine
		m.State = gondola.Destroyed
		t.machine = &m
		gone = append(gone, uid)
	}
	e.mu.Unlock()
	e.policies.touch()
	for _, uid := range gone {
		e.queue.Add(uid)
	}
}

func uidOf(m *gondola.Machine) types.UID {
	if m.Config == nil {
		return ""
	}
	return types.UID(m.Config.Metadata[translate.MetadataUID])
}

func seq(m *gondola.Machine) uint64 {
	if m.Gondola == nil {
		return 0
	}
	return m.Gondola.Seq
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
