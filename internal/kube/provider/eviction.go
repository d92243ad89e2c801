package provider

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubelettypes "k8s.io/kubernetes/pkg/kubelet/types"

	"gondola"
	"gondola/internal/kube/translate"
)

// The platform stays simple: a worker says what runs out on its host and removes images that nobody uses, and that is all. Which Pod has to
// go is decided here, in the order and words of a kubelet (k8s.io/kubernetes/pkg/kubelet/eviction).

const (
	evictEvery = 10 * time.Second // as a kubelet looks
	evictGrace = time.Second      // of a Pod that is evicted, as a kubelet has it for hard thresholds
)

// evict looks after limits and pressure until ctx ends. Where no Pod has a limit on its disk space and no host is under pressure, it asks
// nobody anything.
func (e *engine) evict(ctx context.Context) {
	t := time.NewTicker(evictEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			e.enforceLimits(ctx)
			e.relieve(ctx)
		}
	}
}

// enforceLimits evicts the Pods that take more disk space than they may.
func (e *engine) enforceLimits(ctx context.Context) {
	for _, c := range e.candidates(hasDiskLimit) {
		workers, err := e.cfg.Platform.Stats(ctx, gondola.StatsRequest{Ref: c.ref})
		if err != nil {
			e.log.Debug("disk space of a pod cannot be measured", "pod", c.pod.Namespace+"/"+c.pod.Name, "err", err)
			continue
		}
		for _, w := range workers {
			for i := range w.Machines {
				if message := overLimit(c.pod, &w.Machines[i]); message != "" {
					e.setEviction(c.pod, &translate.Failure{Reason: evicted, Message: message})
				}
			}
		}
	}
}

// relieve evicts one Pod from each host under pressure: the next only when there still is pressure after it has gone. Where disk space is short, what
// Pods that have ended left goes before.
func (e *engine) relieve(ctx context.Context) {
	for worker, offer := range e.offers.pressed() {
		if e.evicting(worker) {
			continue
		}
		stats, err := e.cfg.Platform.Stats(ctx, gondola.StatsRequest{Region: offer.Region})
		if err != nil {
			e.log.Warn("a worker is under pressure, and what its Pods use cannot be had", "worker", worker, "err", err)
			continue
		}
		for _, w := range stats {
			// What was told by the offer may be over.
			if short, ok := shortageOf(w.Host); ok && w.Worker == worker && !(w.Host.Pressure().Disk && e.reclaim(ctx, worker)) {
				e.evictOne(w, short)
			}
		}
	}
}

// reclaim destroys the Machines of a worker whose Pods have ended, as a kubelet removes containers then: logs and volumes on disk go with them. It says
// whether there were any.
func (e *engine) reclaim(ctx context.Context, worker gondola.WorkerName) bool {
	var ended []*gondola.Machine
	e.mu.Lock()
	for _, t := range e.pods {
		if t.pod != nil && t.machine != nil && t.worker == worker && t.pod.DeletionTimestamp == nil && !running(t.machine) && t.machine.State != gondola.Destroyed &&
			(t.pod.Status.Phase == corev1.PodSucceeded || t.pod.Status.Phase == corev1.PodFailed) {
			ended = append(ended, t.machine)
		}
	}
	e.mu.Unlock()
	for _, m := range ended {
		e.log.Info("destroying the machine of a pod that has ended: its worker is short of disk space", "machine", m.ID, "worker", worker)
		if err := e.destroy(ctx, m); err != nil {
			e.log.Warn("a worker is short of disk space, and a machine cannot be destroyed", "worker", worker, "err", err)
		}
	}
	return len(ended) > 0
}

func (e *engine) evictOne(w gondola.WorkerStats, short shortage) {
	var pods []podUsage
	for _, m := range w.Machines {
		pod := e.podOf(types.UID(m.Metadata[translate.MetadataUID]))
		if m.Metadata[translate.MetadataCluster] == e.cfg.Cluster && pod != nil && pod.DeletionTimestamp == nil && !kubelettypes.IsCriticalPod(pod) {
			pods = append(pods, podUsage{pod, m})
		}
	}
	if len(pods) == 0 {
		e.log.Warn("a worker is under pressure, and none of its Pods can be evicted", "worker", w.Worker, "resource", short.resource)
		return
	}
	victim := short.rank(pods)[0]
	e.setEviction(victim.pod, &translate.Failure{Reason: evicted, Message: short.message(victim), Disrupted: true})
}

// candidate is a Pod whose Machine runs.
type candidate struct {
	pod *corev1.Pod
	ref gondola.Ref
}

func (e *engine) candidates(want func(*corev1.Pod) bool) []candidate {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []candidate
	for _, t := range e.pods {
		if t.pod != nil && t.machine != nil && t.machine.State == gondola.Started && t.eviction == nil && t.pod.DeletionTimestamp == nil && want(t.pod) &&
			!kubelettypes.IsCriticalPod(t.pod) {
			out = append(out, candidate{t.pod, t.machine.Ref()})
		}
	}
	return out
}

// setEviction makes the Pod fail at its next step.
func (e *engine) setEviction(pod *corev1.Pod, f *translate.Failure) {
	e.mu.Lock()
	t, ok := e.pods[pod.UID]
	if ok && t.eviction != nil {
		ok = false
	}
	if ok {
		t.eviction = f
	}
	e.mu.Unlock()
	if !ok {
		return
	}
	e.log.Info("evicting a pod", "pod", pod.Namespace+"/"+pod.Name, "why", f.Message)
	if n, ok := e.nodes[pod.Spec.NodeName]; ok {
		e.eventf(n, pod, "", corev1.EventTypeWarning, evicted, "%s", f.Message)
	}
	e.queue.Add(pod.UID)
}

// evictionOf returns why the Pod is to be evicted, nil if it is not.
func (e *engine) evictionOf(uid types.UID) *translate.Failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.pods[uid]; ok {
		return t.eviction
	}
	return nil
}

// evicting says whether a Pod is leaving a worker for want of something.
func (e *engine) evicting(worker gondola.WorkerName) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.pods {
		if t.eviction != nil && t.eviction.Disrupted && t.worker == worker && running(t.machine) {
			return true
		}
	}
	return false
}
