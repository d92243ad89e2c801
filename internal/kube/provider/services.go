package provider

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"gondola"
)

// services gives the cluster's network its virtual addresses.
type services struct {
	cfg     Config
	svc     corelisters.ServiceLister
	slices  discoverylisters.EndpointSliceLister
	changed chan struct{} // holds one token
}

func newServices(cfg Config, f informers.SharedInformerFactory) *services {
	s := &services{
		cfg: cfg, svc: f.Core().V1().Services().Lister(), slices: f.Discovery().V1().EndpointSlices().Lister(),
		changed: make(chan struct{}, 1),
	}
	touch := func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	h := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { touch() }, UpdateFunc: func(any, any) { touch() }, DeleteFunc: func(any) { touch() }}
	_, _ = f.Core().V1().Services().Informer().AddEventHandler(h)
	_, _ = f.Discovery().V1().EndpointSlices().Informer().AddEventHandler(h)
	touch()
	return s
}

// run programs the whole set after every change, and tries again until it is done. The caller has waited for the first lists.
func (s *services) run(ctx context.Context, warn func(error)) {
	const gather = 20 * time.Millisecond // changes come in bursts
	var last []gondola.VirtualService
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
		pause(ctx, gather)
		set, err := s.all()
		if err == nil && !first && slices.EqualFunc(set, last, equalService) {
			continue
		}
		for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
			if err == nil {
				err = s.cfg.Platform.SetServices(ctx, s.cfg.Network, set)
			}
			if err == nil {
				last = set
				break
			}
			warn(err)
			pause(ctx, wait)
			set, err = s.all()
		}
	}
}

// all translates every Service that has an address, in the order of their names.
func (s *services) all() ([]gondola.VirtualService, error) {
	list, err := s.svc.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	ends, err := s.slices.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	byService := map[string][]*discoveryv1.EndpointSlice{}
	for _, es := range ends {
		k := es.Namespace + "/" + es.Labels[discoveryv1.LabelServiceName]
		byService[k] = append(byService[k], es)
	}
	var out []gondola.VirtualService
	for _, svc := range list {
		k := svc.Namespace + "/" + svc.Name
		if vs, ok := virtualService(svc, byService[k]); ok {
			out = append(out, vs)
		}
	}
	slices.SortFunc(out, func(a, b gondola.VirtualService) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// virtualService translates one Service; one without an address (headless, ExternalName) is none.
func virtualService(svc *corev1.Service, ends []*discoveryv1.EndpointSlice) (gondola.VirtualService, bool) {
	vs := gondola.VirtualService{Name: svc.Namespace + "/" + svc.Name}
	for _, ip := range svc.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			vs.Addresses = append(vs.Addresses, a)
		}
	}
	if len(vs.Addresses) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return vs, false
	}
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		vs.Affinity = int(corev1.DefaultClientIPServiceAffinitySeconds)
		if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			vs.Affinity = int(*c.ClientIP.TimeoutSeconds)
		}
	}
	for _, p := range svc.Spec.Ports {
		protocol := strings.ToLower(string(cmp.Or(p.Protocol, corev1.ProtocolTCP)))
		if protocol != "tcp" && protocol != "udp" {
			continue // SCTP
		}
		vs.Ports = append(vs.Ports, gondola.VirtualPort{Protocol: protocol, Port: uint16(p.Port), Backends: backends(p.Name, ends)})
	}
	return vs, true
}

// backends lists the endpoints of the port of that name, as kube-proxy chooses them: of each family the ready ones; if none is, those that
// still serve while they end.
func backends(port string, ends []*discoveryv1.EndpointSlice) []netip.AddrPort {
	var ready, serving [2][]netip.AddrPort // by family
	for _, es := range ends {
		for _, p := range es.Ports {
			if p.Port == nil || deref(p.Name) != port {
				continue
			}
			for _, ep := range es.Endpoints {
				if len(ep.Addresses) == 0 {
					continue
				}
				a, err := netip.ParseAddr(ep.Addresses[0]) // the others mean nothing (discovery/v1)
				if err != nil {
					continue
				}
				family := 0
				if a.Is6() {
					family = 1
				}
				ap := netip.AddrPortFrom(a, uint16(*p.Port))
				switch c := ep.Conditions; {
				case c.Ready == nil || *c.Ready:
					ready[family] = append(ready[family], ap)
				case c.Serving != nil && *c.Serving:
					serving[family] = append(serving[family], ap)
				}
			}
		}
	}
	var out []netip.AddrPort
	for family := range ready {
		if len(ready[family]) == 0 {
			ready[family] = serving[family]
		}
		out = append(out, ready[family]...)
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int { return a.Compare(b) })
	return slices.Compact(out)
}

func equalService(a, b gondola.VirtualService) bool {
	return a.Name == b.Name && a.Affinity == b.Affinity && slices.Equal(a.Addresses, b.Addresses) &&
		slices.EqualFunc(a.Ports, b.Ports, func(x, y gondola.VirtualPort) bool {
			return x.Protocol == y.Protocol && x.Port == y.Port && slices.Equal(x.Backends, y.Backends)
		})
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
