package provider

import (
	"cmp"
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"gondola"
)

// services gives the cluster's network its virtual addresses, and lets the world in where Services say so.
type services struct {
	cfg     Config
	svc     corelisters.ServiceLister
	slices  discoverylisters.EndpointSliceLister
	changed chan struct{} // holds one token

	client   kubernetes.Interface
	recorder record.EventRecorder
	health   *healthServers
	public   bool                 // some Service has public ports; run's
	told     map[types.UID]string // what the last Events said; run's
}

func newServices(cfg Config, f informers.SharedInformerFactory, client kubernetes.Interface, recorder record.EventRecorder) *services {
	s := &services{
		client: client, recorder: recorder, health: newHealthServers(cfg.Log, cfg.Nodes), told: map[types.UID]string{}, cfg: cfg, svc: f.Core().V1().Services().Lister(), slices: f.Discovery().V1().EndpointSlices().Lister(),
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
	const again = 5 * time.Second        // ports that were taken may be free, and the host may have other addresses
	defer s.health.close()
	var last []gondola.VirtualService
	look := time.NewTicker(again)
	defer look.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-look.C:
			if !s.public {
				continue
			}
		}
		pause(ctx, gather)
		for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
			set, err := s.program(ctx, last, first)
			if err == nil {
				last = set
				break
			}
			warn(err)
			pause(ctx, wait)
		}
	}
}

// program brings the platform and the Services' statuses to where the Services say they should be. last is what the platform has, unless it
// is to be told anew.
func (s *services) program(ctx context.Context, last []gondola.VirtualService, anew bool) ([]gondola.VirtualService, error) {
	list, err := s.svc.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.public = slices.ContainsFunc(list, isPublic)
	var doors entrance
	if s.public {
		if doors, err = s.entrance(ctx); err != nil {
			return nil, err
		}
		if err := s.hold(ctx, list); err != nil {
			return nil, err
		}
	}
	assigned := assign(list, doors)
	set, err := s.all(list, assigned)
	if err != nil {
		return nil, err
	}
	if anew || len(doors.refusals) > 0 || !slices.EqualFunc(set, last, equalService) {
		if err := s.cfg.Platform.SetServices(ctx, s.cfg.Network, set); err != nil {
			return nil, err
		}
		if s.public {
			if doors, err = s.entrance(ctx); err != nil {
				return nil, err
			}
		}
	}
	s.health.set(healthPorts(list, set))
	return set, s.tell(ctx, list, assigned, doors)
}

// all translates every Service that has an address, the oldest first: it has the elder right to a public port.
func (s *services) all(list []*corev1.Service, assigned map[types.UID]assignment) ([]gondola.VirtualService, error) {
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
		if vs, ok := virtualService(svc, byService[key(svc)]); ok {
			vs.Public = public(svc, assigned[svc.UID])
			out = append(out, vs)
		}
	}
	return out, nil
}

// virtualService translates one Service; one without an address (headless, ExternalName) is none.
func virtualService(svc *corev1.Service, ends []*discoveryv1.EndpointSlice) (gondola.VirtualService, bool) {
	vs := gondola.VirtualService{Name: key(svc)}
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
			continue // SCTP, which tell refuses
		}
		vs.Ports = append(vs.Ports, gondola.VirtualPort{Protocol: protocol, Port: uint16(p.Port), NodePort: uint16(p.NodePort), Backends: backends(p.Name, ends)})
	}
	return vs, true
}

func key(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

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

func equalService(a, b gondola.VirtualService) bool { return reflect.DeepEqual(a, b) }

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
