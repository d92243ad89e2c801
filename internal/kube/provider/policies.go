package provider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"gondola"
	"gondola/internal/kube/translate"
)

// policyOwner is whose policies these are at the platform.
const policyOwner = "kubernetes"

// policies gives the cluster's network its NetworkPolicies.
type policies struct {
	cfg        Config
	engine     *engine
	policies   networkinglisters.NetworkPolicyLister
	namespaces corelisters.NamespaceLister
	svc        corelisters.ServiceLister
	slices     discoverylisters.EndpointSliceLister
	changed    chan struct{} // holds one token

	seen, done atomic.Int64 // changes of NetworkPolicies, and up to which one they are in force
}

func newPolicies(cfg Config, e *engine, f informers.SharedInformerFactory) *policies {
	p := &policies{
		cfg: cfg, engine: e, policies: f.Networking().V1().NetworkPolicies().Lister(), namespaces: f.Core().V1().Namespaces().Lister(),
		svc: f.Core().V1().Services().Lister(), slices: f.Discovery().V1().EndpointSlices().Lister(), changed: make(chan struct{}, 1),
	}
	on := func(f func()) cache.ResourceEventHandler {
		return cache.ResourceEventHandlerFuncs{AddFunc: func(any) { f() }, UpdateFunc: func(any, any) { f() }, DeleteFunc: func(any) { f() }}
	}
	_, _ = f.Networking().V1().NetworkPolicies().Informer().AddEventHandler(on(func() { p.seen.Add(1); p.touch() }))
	_, _ = f.Core().V1().Namespaces().Informer().AddEventHandler(on(p.touch))
	_, _ = f.Discovery().V1().EndpointSlices().Informer().AddEventHandler(on(p.touch))
	p.seen.Add(1) // what there was before this process
	p.touch()
	return p
}

// touch says that something has changed: Pods and Machines too. A provider whose nodes somebody else runs has no policies.
func (p *policies) touch() {
	if p == nil {
		return
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// settled says whether all NetworkPolicies that are known are in force. A Pod is launched only then: its worker isolates it by what it was told
// before.
func (p *policies) settled() bool { return p == nil || p.done.Load() >= p.seen.Load() }

// run sets the whole after every change, and tries again until it is done. The caller has waited for the first lists.
func (p *policies) run(ctx context.Context, warn func(error)) {
	const gather = 20 * time.Millisecond // changes come in bursts
	var last *gondola.PolicySet
	for wait := time.Duration(0); ; {
		if wait == 0 {
			select {
			case <-ctx.Done():
				return
			case <-p.changed:
			}
			pause(ctx, gather)
		} else if pause(ctx, wait); ctx.Err() != nil {
			return
		}
		seen := p.seen.Load()
		set, err := p.all()
		if err == nil && (last == nil || !reflect.DeepEqual(*last, set)) {
			err = p.cfg.Platform.SetPolicies(ctx, p.cfg.Network, policyOwner, set)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case errors.Is(err, gondola.ErrUnsupported), errors.Is(err, gondola.ErrNotFound): // a platform without them
			if len(set.Policies) > 0 {
				warn(fmt.Errorf("this platform has no network policies, every Pod is open: %w", err))
			}
		case err != nil:
			warn(err)
			wait = min(max(2*wait, 100*time.Millisecond), 5*time.Second)
			continue
		}
		last, wait = &set, 0
		p.done.Store(seen)
	}
}

// all resolves every NetworkPolicy.
func (p *policies) all() (gondola.PolicySet, error) {
	list, err := p.policies.List(labels.Everything())
	if err != nil || len(list) == 0 {
		return gondola.PolicySet{}, err
	}
	namespaces, err := p.namespaces.List(labels.Everything())
	if err != nil {
		return gondola.PolicySet{}, err
	}
	in := translate.PolicyInputs{Policies: list, Namespaces: namespaces, Peers: append(p.engine.peers(), p.dns()...)}
	for _, n := range p.cfg.Nodes {
		in.Nodes = append(in.Nodes, n.Addresses...)
	}
	return translate.Policies(in), nil
}

// peers are the Pods that have addresses: of their Machine, which has them first, or by their status.
func (e *engine) peers() (out []translate.PolicyPeer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.pods {
		if t.pod == nil || t.pod.Spec.HostNetwork || t.pod.Status.Phase == corev1.PodSucceeded || t.pod.Status.Phase == corev1.PodFailed {
			continue
		}
		var addrs []netip.Addr
		switch {
		case t.machine != nil && t.machine.State == gondola.Destroyed:
		case t.machine != nil && t.machine.Gondola != nil:
			addrs = t.machine.Gondola.Addresses
		default:
			for _, ip := range t.pod.Status.PodIPs {
				if a, err := netip.ParseAddr(ip.IP); err == nil {
					addrs = append(addrs, a)
				}
			}
		}
		if len(addrs) > 0 {
			out = append(out, translate.PeerOf(t.pod, addrs))
		}
	}
	return out
}

// dns is the cluster's DNS as the Pods that it is elsewhere: the endpoints of its Service, with the Service's labels.
func (p *policies) dns() (out []translate.PolicyPeer) {
	if len(p.cfg.DNS) == 0 {
		return nil
	}
	services, err := p.svc.List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, s := range services {
		if s.Spec.ClusterIP != p.cfg.DNS[0].String() {
			continue
		}
		ends, err := p.slices.EndpointSlices(s.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: s.Name}))
		if err != nil {
			return nil
		}
		for _, es := range ends {
			out = append(out, hosted(s, es)...)
		}
	}
	return slices.DeleteFunc(out, func(p translate.PolicyPeer) bool { return len(p.Addresses) == 0 })
}

// hosted are the endpoints of a slice that are no Pods.
func hosted(s *corev1.Service, es *discoveryv1.EndpointSlice) (out []translate.PolicyPeer) {
	for _, e := range es.Endpoints {
		if e.TargetRef != nil {
			continue
		}
		peer := translate.PolicyPeer{Namespace: s.Namespace, Labels: s.Labels}
		for _, s := range e.Addresses {
			if a, err := netip.ParseAddr(s); err == nil {
				peer.Addresses = append(peer.Addresses, a)
			}
		}
		for _, port := range es.Ports {
			if port.Name != nil && port.Port != nil && port.Protocol != nil {
				peer.Ports = append(peer.Ports, corev1.ContainerPort{Name: *port.Name, ContainerPort: *port.Port, Protocol: *port.Protocol})
			}
		}
		out = append(out, peer)
	}
	return out
}

// relabel brings the Machine's metadata in line with the Pod's labels: policies select it by them.
func (e *engine) relabel(ctx context.Context, pod *corev1.Pod, m *gondola.Machine) error {
	if m.Config == nil || m.State == gondola.Destroyed || m.State == gondola.Destroying {
		return nil
	}
	changes := translate.LabelChanges(pod, m.Config.Metadata)
	if len(changes) == 0 {
		return nil
	}
	err := e.cfg.Platform.SetMetadata(ctx, m.Ref(), "", changes)
	if err != nil && !errors.Is(err, gondola.ErrNotFound) && !errors.Is(err, gondola.ErrPrecondition) {
		return fmt.Errorf("labels of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
