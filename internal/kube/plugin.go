package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"gondola"
	"gondola/internal/kube/translate"
)

// PluginName is the name of our scheduler plugin.
const PluginName = "GondolaMarket"

// plugin is the market in the scheduler. Filter rejects a node whose region has no worker that can take the Pod, in the market's words;
// Score prefers cheaper regions and those that have the images; Reserve makes the next Pod see what this one takes. Of the Pods that were rejected
// everywhere as many are woken as offers have room for, as soon as they do. Nothing here does I/O: the market's picture is kept in the background.
type plugin struct {
	market *market
	handle fwk.Handle
	now    func() time.Time

	mu      sync.Mutex
	refused map[types.UID]*refused // Pods that found no room in at least one region
	spare   int                    // how many more are woken than there is room for
}

// refused is a Pod, and the regions that had no room for it when it was last tried.
type refused struct {
	pod     *corev1.Pod
	regions []gondola.Region
	woken   time.Time // when it was last; if zero, never
	queued  bool      // it was woken, and not tried since
	vain    bool      // it was woken and tried, and it found no place; until wake has seen that
}

var (
	_ fwk.PreFilterPlugin     = (*plugin)(nil)
	_ fwk.PreFilterExtensions = (*plugin)(nil)
	_ fwk.FilterPlugin        = (*plugin)(nil)
	_ fwk.ScorePlugin         = (*plugin)(nil)
	_ fwk.ReservePlugin       = (*plugin)(nil)
	_ fwk.EnqueueExtensions   = (*plugin)(nil)
)

// plugin makes the scheduler's plugin; the scheduler calls it once.
func (m *market) plugin(ctx context.Context, _ runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
	p := &plugin{market: m, handle: h, now: time.Now, refused: map[types.UID]*refused{}}
	pods := h.SharedInformerFactory().Core().V1().Pods().Informer()
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: p.forget}); err != nil {
		return nil, err
	}
	go p.wake(ctx)
	return p, nil
}

func (p *plugin) Name() string { return PluginName }

// podState is what a Pod wants, and what preemption would give back in the region that is looked at.
type podState struct {
	wants gondola.Resources
	claim string                       // of the Pod's, that can be had in one region only; empty: none is
	only  gondola.Region               // that one
	freed map[string]gondola.Resources // node → of the Pods that preemption takes away in thought
}

func (s *podState) Clone() fwk.StateData {
	c := &podState{wants: s.wants, claim: s.claim, only: s.only, freed: make(map[string]gondola.Resources, len(s.freed))}
	for n, r := range s.freed {
		c.freed[n] = r
	}
	return c
}

// PreFilter computes what the Pod wants, once for all regions.
func (p *plugin) PreFilter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	p.mu.Lock()
	if r := p.refused[pod.UID]; r != nil {
		r.regions, r.queued, r.vain = nil, false, r.queued
	}
	p.mu.Unlock()
	s := &podState{wants: podRequests(pod), freed: map[string]gondola.Resources{}}
	s.claim, s.only = p.pinned(pod)
	state.Write(PluginName, s)
	return nil, nil
}

// pinned returns a claim of the Pod that has no volume yet and can get one in one region only, as a copy of what is there.
func (p *plugin) pinned(pod *corev1.Pod) (claim string, only gondola.Region) {
	for i := range pod.Spec.Volumes {
		name, ok := translate.ClaimName(pod, &pod.Spec.Volumes[i])
		if !ok {
			continue
		}
		pvc, err := p.handle.SharedInformerFactory().Core().V1().PersistentVolumeClaims().Lister().PersistentVolumeClaims(pod.Namespace).Get(name)
		if err == nil && pvc.Spec.VolumeName == "" && pvc.Annotations[translate.RegionAnnotation] != "" {
			return name, gondola.Region(pvc.Annotations[translate.RegionAnnotation])
		}
	}
	return "", ""
}

func (p *plugin) PreFilterExtensions() fwk.PreFilterExtensions { return p }

// AddPod and RemovePod follow the scheduler's thoughts about preemption: what would be, were that Pod not there.
func (p *plugin) AddPod(_ context.Context, state fwk.CycleState, _ *corev1.Pod, other fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	s := stateOf(state, other.GetPod())
	name := node.Node().Name
	s.freed[name] = s.freed[name].Sub(podRequests(other.GetPod()))
	return nil
}

func (p *plugin) RemovePod(_ context.Context, state fwk.CycleState, _ *corev1.Pod, other fwk.PodInfo, node fwk.NodeInfo) *fwk.Status {
	s := stateOf(state, other.GetPod())
	name := node.Node().Name
	s.freed[name] = s.freed[name].Add(podRequests(other.GetPod()))
	return nil
}

// stateOf returns what PreFilter wrote, or, in a cycle without PreFilter, the same made now.
func stateOf(state fwk.CycleState, pod *corev1.Pod) *podState {
	if d, err := state.Read(PluginName); err == nil {
		return d.(*podState)
	}
	return &podState{wants: podRequests(pod), freed: map[string]gondola.Resources{}}
}

// Filter rejects a node whose region has no room.
func (p *plugin) Filter(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	region := regionOf(node.Node())
	offers, known := p.market.region(region, string(pod.UID), p.now())
	s := stateOf(state, pod)
	if s.only != "" && s.only != region {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fmt.Sprintf("%s: claim %s is a copy of what is in %s", region, s.claim, s.only))
	}
	if region == "" || !known {
		return nil
	}
	if freed := s.freed[node.Node().Name]; freed != (gondola.Resources{}) {
		if i := roomiest(offers, s.wants); i >= 0 {
			o := &offers[i]
			o.Free = o.Free.Add(freed) // of several workers' Machines, maybe
			o.Free.CPUMillis, o.Free.MemoryBytes = min(o.Free.CPUMillis, o.Capacity.CPUMillis), min(o.Free.MemoryBytes, o.Capacity.MemoryBytes)
		}
	}
	refusal, ok := verdict(region, offers, s.wants)
	if ok {
		return nil
	}
	p.refuse(pod, region)
	return fwk.NewStatus(fwk.Unschedulable, refusal)
}

// refuse remembers that a region has no room for a Pod.
func (p *plugin) refuse(pod *corev1.Pod, region gondola.Region) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.refused[pod.UID]
	if r == nil {
		r = &refused{pod: pod}
		p.refused[pod.UID] = r
	}
	if !slices.Contains(r.regions, region) {
		r.regions = append(r.regions, region)
	}
}

// Score prefers the cheaper region.
func (p *plugin) Score(_ context.Context, state fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	offers, _ := p.market.region(regionOf(node.Node()), string(pod.UID), p.now())
	var images []string
	for i := range pod.Spec.Containers {
		images = append(images, pod.Spec.Containers[i].Image)
	}
	return attraction(offers, stateOf(state, pod).wants, images), nil
}

func (p *plugin) ScoreExtensions() fwk.ScoreExtensions { return nil }

// Reserve counts the Pod against its region until the offers show it.
func (p *plugin) Reserve(_ context.Context, state fwk.CycleState, pod *corev1.Pod, nodeName string) *fwk.Status {
	p.mu.Lock()
	delete(p.refused, pod.UID)
	p.mu.Unlock()
	node, err := p.handle.SnapshotSharedLister().NodeInfos().Get(nodeName)
	if err != nil {
		return fwk.AsStatus(err)
	}
	p.market.reserve(string(pod.UID), regionOf(node.Node()), stateOf(state, pod).wants, p.now())
	return nil
}

func (p *plugin) Unreserve(_ context.Context, _ fwk.CycleState, pod *corev1.Pod, _ string) {
	p.market.release(string(pod.UID))
}

// EventsToRegister lists what may make room for a Pod that was rejected. Offers are no event of Kubernetes: wake follows them, and they tell of a
// Pod that is gone or has become smaller when its room is free.
func (p *plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeAllocatable | fwk.UpdateNodeLabel | fwk.UpdateNodeTaint}},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.UpdatePodScaleDown}, QueueingHintFn: itself},
		{Event: fwk.ClusterEvent{Resource: fwk.PersistentVolumeClaim, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: itsClaim},
	}, nil
}

// itself wakes a Pod that wants less than it did.
func itself(_ klog.Logger, pod *corev1.Pod, _, now any) (fwk.QueueingHint, error) {
	if changed, ok := now.(*corev1.Pod); ok && changed.UID != pod.UID {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// itsClaim wakes a Pod when one of its claims is there or has changed.
func itsClaim(_ klog.Logger, pod *corev1.Pod, _, now any) (fwk.QueueingHint, error) {
	pvc, ok := now.(*corev1.PersistentVolumeClaim)
	if ok && (pvc.Namespace != pod.Namespace || !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		name, ok := translate.ClaimName(pod, &v)
		return ok && name == pvc.Name
	})) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// forget gives up the place of a Pod that was deleted. The scheduler's own hints would not do: they are asked for only while some Pod waits.
func (p *plugin) forget(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	p.mu.Lock()
	delete(p.refused, pod.UID)
	p.mu.Unlock()
	p.market.release(string(pod.UID))
}

// How often wake looks when no offer changes: nothing tells that a place which no Machine came for counts no longer, nor what became of those
// that were woken.
const (
	lookAgain = 5 * time.Second
	lookSoon  = 250 * time.Millisecond
)

// mostSpare is how many more Pods are woken at most than there is room for.
const mostSpare = 63

// wake puts Pods that were refused back into the scheduler's active queue, past its back-off, when the offers have room for them.
func (p *plugin) wake(ctx context.Context) {
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.market.changed:
		case <-again.C:
		}
		pods, within := p.hopeful()
		if len(pods) > 0 {
			p.handle.Activate(klog.FromContext(ctx), pods)
		}
		again.Reset(within)
		pause := time.NewTimer(100 * time.Millisecond) // offers come in bursts
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// hopeful returns the Pods to wake, by namespace/name, and how soon to look again at the latest. They are those for which a region that refused them
// now has room beside the others of them and those that were woken before and not tried yet, which the scheduler has in its queue: by priority, then
// those that were woken longest ago or never, then the oldest. Each of them costs the scheduler a look at every region; were all woken that fit by
// themselves, a thousand that wait would be tried for every single place.
//
// One that was woken may be refused by another plugin, and its room stays: each time that is so, twice as many more are woken than there is room
// for, so that however many such Pods are in front, those behind them have their turn soon.
func (p *plugin) hopeful() (pods map[string]*corev1.Pod, again time.Duration) {
	lister := p.handle.SharedInformerFactory().Core().V1().Pods().Lister()
	now := p.now()
	regions, left := p.market.regions(now), map[gondola.Region][]gondola.Offer{}
	for r, offers := range regions {
		left[r] = slices.Clone(offers)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pods, again = map[string]*corev1.Pod{}, lookAgain
	var waiting []*refused
	vain := false
	for uid, r := range p.refused {
		pod, err := lister.Pods(r.pod.Namespace).Get(r.pod.Name)
		if err != nil || pod.UID != uid || pod.Spec.NodeName != "" {
			delete(p.refused, uid)
			continue
		}
		vain, r.vain = vain || r.vain, false
		if r.pod = pod; r.queued && now.Sub(r.woken) < lookAgain {
			again = lookSoon
			takePlace(left, r)
			continue
		}
		waiting = append(waiting, r)
	}
	switch {
	case vain:
		p.spare = min(2*p.spare+1, mostSpare)
	case again == lookAgain:
		p.spare = 0
	}
	spare := p.spare
	slices.SortFunc(waiting, func(a, b *refused) int {
		return cmp.Or(cmp.Compare(corev1helpers.PodPriority(b.pod), corev1helpers.PodPriority(a.pod)), a.woken.Compare(b.woken),
			a.pod.CreationTimestamp.Compare(b.pod.CreationTimestamp.Time), cmp.Compare(a.pod.UID, b.pod.UID))
	})
	for _, r := range waiting {
		if !takePlace(left, r) {
			if spare == 0 || !fitsSomewhere(regions, r) {
				continue
			}
			spare--
		}
		r.woken, r.queued, again = now, true, lookSoon
		pods[r.pod.Namespace+"/"+r.pod.Name] = r.pod
	}
	return pods, again
}

// takePlace takes a Pod out of the offers of a region that refused it; false if none has room.
func takePlace(left map[gondola.Region][]gondola.Offer, r *refused) bool {
	wants := podRequests(r.pod)
	for _, region := range r.regions {
		if _, ok := verdict(region, left[region], wants); ok {
			lessPending(left[region], []gondola.Resources{wants})
			return true
		}
	}
	return false
}

func fitsSomewhere(regions map[gondola.Region][]gondola.Offer, r *refused) bool {
	return slices.ContainsFunc(r.regions, func(region gondola.Region) bool {
		_, ok := verdict(region, regions[region], podRequests(r.pod))
		return ok
	})
}

// regionOf is the region that a virtual node stands for; "" for a node that is none.
func regionOf(n *corev1.Node) gondola.Region {
	return gondola.Region(n.Labels[corev1.LabelTopologyRegion])
}

// podRequests is what the scheduler counts for a Pod, and so what its Machine reserves: init containers, sidecars and overhead included. One
// that requests nothing counts as a sandbox's overhead, as at the market.
func podRequests(pod *corev1.Pod) gondola.Resources {
	if wants := translate.Requests(pod); wants != (gondola.Resources{}) {
		return wants
	}
	return gondola.Overhead
}
