package kube

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"gondola"
	"gondola/internal/kube/translate"
)

// PluginName is the name of our scheduler plugin.
const PluginName = "GondolaMarket"

// plugin is the market in the scheduler. Filter rejects a node whose region has no worker that can take the Pod, in the market's words;
// Score prefers cheaper regions and those that have the images; Reserve makes the next Pod see what this one takes. A Pod that was rejected
// everywhere is woken as soon as an offer has room for it. Nothing here does I/O: the market's picture is kept in the background.
type plugin struct {
	market *market
	handle fwk.Handle
	now    func() time.Time

	mu      sync.Mutex
	refused map[types.UID]*refused // Pods that found no room in at least one region
}

// refused is a Pod, and the regions that had no room for it when it was last tried.
type refused struct {
	pod     *corev1.Pod
	regions []gondola.Region
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
	delete(p.refused, pod.UID)
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
			offers[i].Free = offers[i].Free.Add(freed)
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

// EventsToRegister lists what may make room for a Pod that was rejected. Offers are no event of Kubernetes: wake follows them.
func (p *plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeAllocatable | fwk.UpdateNodeLabel | fwk.UpdateNodeTaint}},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Delete}, QueueingHintFn: p.podGone},
		{Event: fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.UpdatePodScaleDown}},
		{Event: fwk.ClusterEvent{Resource: fwk.PersistentVolumeClaim, ActionType: fwk.Add | fwk.Update}},
	}, nil
}

// podGone wakes the Pods that wait only if the one that was deleted had a place.
func (p *plugin) podGone(_ klog.Logger, _ *corev1.Pod, old, _ any) (fwk.QueueingHint, error) {
	if gone, ok := old.(*corev1.Pod); ok && gone.Spec.NodeName == "" {
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

// wake puts Pods that were refused back into the scheduler's active queue, past its back-off, when the offers have room for them.
func (p *plugin) wake(ctx context.Context) {
	again := time.NewTicker(5 * time.Second) // nothing tells that a place which no Machine came for counts no longer
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.market.changed:
		case <-again.C:
		}
		if pods := p.hopeful(); len(pods) > 0 {
			p.handle.Activate(klog.FromContext(ctx), pods)
		}
		pause := time.NewTimer(100 * time.Millisecond) // offers come in bursts
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// hopeful returns the Pods that still wait and for which a region that refused them now has room, by namespace/name, and forgets those that are
// gone.
func (p *plugin) hopeful() map[string]*corev1.Pod {
	pods := p.handle.SharedInformerFactory().Core().V1().Pods().Lister()
	regions := p.market.regions(p.now())
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]*corev1.Pod{}
	for uid, r := range p.refused {
		now, err := pods.Pods(r.pod.Namespace).Get(r.pod.Name)
		if err != nil || now.UID != uid || now.Spec.NodeName != "" {
			delete(p.refused, uid)
			continue
		}
		for _, region := range r.regions {
			if _, ok := verdict(region, regions[region], podRequests(now)); ok {
				out[now.Namespace+"/"+now.Name] = now
			}
		}
	}
	return out
}

// regionOf is the region that a virtual node stands for; "" for a node that is none.
func regionOf(n *corev1.Node) gondola.Region {
	return gondola.Region(n.Labels[corev1.LabelTopologyRegion])
}

// podRequests is what the scheduler counts for a Pod, and so what its Machine reserves: init containers, sidecars and overhead included. One
// that requests nothing counts as a sandbox's overhead, as at the market.
func podRequests(pod *corev1.Pod) gondola.Resources {
	r := resource.PodRequests(pod, resource.PodResourcesOptions{})
	wants := gondola.Resources{CPUMillis: r.Cpu().MilliValue(), MemoryBytes: r.Memory().Value()}
	if wants == (gondola.Resources{}) {
		return gondola.Overhead
	}
	return wants
}
