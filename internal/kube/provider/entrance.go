package provider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"gondola"
)

const (
	// loadBalancerClass is ours; Services without a class are too.
	loadBalancerClass = "gondola.local/load-balancer"
	// loadBalancerIPs names the addresses that a Service wants, with commas; spec.loadBalancerIP takes only one and is deprecated.
	loadBalancerIPs = "gondola.local/load-balancer-ips"
	// cleanup is upstream's finalizer: a Service goes when nothing leads to it any more.
	cleanup = "service.kubernetes.io/load-balancer-cleanup"
)

// entrance is where the world can come in to any host of the platform.
type entrance struct {
	addresses []netip.Addr // of the hosts; if they have none, of the virtual nodes
	pools     []netip.Prefix
	refusals  map[string][]gondola.PortRefusal // Service → its ports that are not open
}

// assignment is what a LoadBalancer gets.
type assignment struct {
	host      bool         // every address of the host
	addresses []netip.Addr // or these
	pending   string       // or nothing: why
}

// isPublic says whether a Service has, or had, anything to do with the world outside.
func isPublic(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer || len(svc.Spec.ExternalIPs) > 0 ||
		slices.Contains(svc.Finalizers, cleanup)
}

// isOurs says whether a Service is a LoadBalancer that is ours to serve.
func isOurs(svc *corev1.Service) bool {
	class := deref(svc.Spec.LoadBalancerClass)
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && (class == "" || class == loadBalancerClass)
}

func (s *services) entrance(ctx context.Context) (entrance, error) {
	list, err := s.cfg.Platform.Entrances(ctx)
	if errors.Is(err, gondola.ErrUnsupported) {
		err = nil // another platform: Services keep what they have inside
	}
	if err != nil {
		return entrance{}, err
	}
	out := entrance{refusals: map[string][]gondola.PortRefusal{}}
	for _, e := range list {
		out.addresses = append(out.addresses, e.Addresses...)
		for _, p := range e.Pools {
			if !slices.Contains(out.pools, p) {
				out.pools = append(out.pools, p)
			}
		}
		for _, r := range e.Refusals {
			if r.Network == s.cfg.Network {
				out.refusals[r.Service] = append(out.refusals[r.Service], r)
			}
		}
	}
	if len(out.addresses) == 0 && len(list) > 0 {
		for _, n := range s.cfg.Nodes {
			out.addresses = append(out.addresses, n.Addresses...)
		}
	}
	return out, nil
}

// assign is the pure half: what each LoadBalancer gets. An address of a pool that a Service has on record stays its own.
func assign(list []*corev1.Service, e entrance) map[types.UID]assignment {
	out := map[types.UID]assignment{}
	taken := map[netip.Addr]bool{}
	for _, svc := range list {
		for _, a := range append(recorded(svc), requested(svc)...) {
			taken[a] = true
		}
	}
	for _, svc := range list {
		if !isOurs(svc) || svc.DeletionTimestamp != nil {
			continue
		}
		switch wanted := requested(svc); {
		case len(wanted) > 0:
			out[svc.UID] = assignment{addresses: wanted}
		case svc.Annotations[loadBalancerIPs]+svc.Spec.LoadBalancerIP != "":
			out[svc.UID] = assignment{pending: fmt.Sprintf("load balancer address %q is none", svc.Annotations[loadBalancerIPs]+svc.Spec.LoadBalancerIP)}
		case len(e.pools) == 0:
			out[svc.UID] = assignment{host: true}
		default:
			out[svc.UID] = fromPools(svc, e.pools, taken)
		}
	}
	return out
}

// fromPools finds an address of each family of the Service for which there is a pool.
func fromPools(svc *corev1.Service, pools []netip.Prefix, taken map[netip.Addr]bool) (got assignment) {
	for _, f := range svc.Spec.IPFamilies {
		is4, there := f == corev1.IPv4Protocol, false
		var found netip.Addr
		for _, p := range pools {
			if p.Addr().Is4() != is4 {
				continue
			}
			there = true
			mine := recorded(svc)
			if i := slices.IndexFunc(mine, p.Contains); i >= 0 {
				found = mine[i]
				break
			}
			if found = free(p, taken); found.IsValid() {
				taken[found] = true
				break
			}
		}
		switch {
		case found.IsValid():
			got.addresses = append(got.addresses, found)
		case there:
			return assignment{pending: fmt.Sprintf("no address of the load balancer pools is free for %s: add a pool, with gondola up --lb-pool", f)}
		}
	}
	if len(got.addresses) == 0 {
		got.pending = fmt.Sprintf("there is no load balancer pool for %v: add one, with gondola up --lb-pool", svc.Spec.IPFamilies)
	}
	return got
}

// free returns the first address of a pool that nobody has. The first and last of an IPv4 pool mean something else in a subnet, as does the
// first of an IPv6 one.
func free(p netip.Prefix, taken map[netip.Addr]bool) netip.Addr {
	a := p.Masked().Addr()
	if a.BitLen()-p.Bits() <= 1 {
		for ; p.Contains(a); a = a.Next() {
			if !taken[a] {
				return a
			}
		}
		return netip.Addr{}
	}
	for a = a.Next(); p.Contains(a) && (a.Is6() || p.Contains(a.Next())); a = a.Next() {
		if !taken[a] {
			return a
		}
	}
	return netip.Addr{}
}

func recorded(svc *corev1.Service) (out []netip.Addr) {
	if !isOurs(svc) {
		return nil
	}
	for _, i := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(i.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// requested are the addresses that the Service names, none if one of them makes no sense.
func requested(svc *corev1.Service) (out []netip.Addr) {
	list := svc.Annotations[loadBalancerIPs]
	if list == "" {
		list = svc.Spec.LoadBalancerIP
	}
	for a := range strings.SplitSeq(list, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(a))
		if err != nil {
			return nil
		}
		out = append(out, addr.Unmap())
	}
	return out
}

// public says how the world comes in to a Service.
func public(svc *corev1.Service, a assignment) *gondola.Public {
	p := gondola.Public{Host: a.host, Addresses: slices.Clone(a.addresses), KeepSource: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal}
	for _, ip := range svc.Spec.ExternalIPs {
		if addr, err := netip.ParseAddr(ip); err == nil && !slices.Contains(p.Addresses, addr) {
			p.Addresses = append(p.Addresses, addr)
		}
	}
	ranges := svc.Spec.LoadBalancerSourceRanges
	if s := strings.TrimSpace(svc.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]); len(ranges) == 0 && s != "" {
		ranges = strings.Split(s, ",")
	}
	for _, r := range ranges {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil {
			p.Sources = append(p.Sources, prefix.Masked())
		}
	}
	if !isPublic(svc) {
		return nil
	}
	return &p
}

// hold puts the finalizer on LoadBalancers before anything leads to them.
func (s *services) hold(ctx context.Context, list []*corev1.Service) error {
	for _, svc := range list {
		if !isOurs(svc) || svc.DeletionTimestamp != nil || slices.Contains(svc.Finalizers, cleanup) {
			continue
		}
		o := svc.DeepCopy()
		o.Finalizers = append(o.Finalizers, cleanup)
		if _, err := s.client.CoreV1().Services(svc.Namespace).Update(ctx, o, metav1.UpdateOptions{}); err != nil && !passing(err) {
			return fmt.Errorf("service %s: add its finalizer: %w", key(svc), err)
		}
	}
	return nil
}

// passing says whether the Service has changed since it was read: the change brings us here again.
func passing(err error) bool { return apierrors.IsConflict(err) || apierrors.IsNotFound(err) }

// tell brings statuses, finalizers and Events to where things are.
func (s *services) tell(ctx context.Context, list []*corev1.Service, assigned map[types.UID]assignment, e entrance) error {
	there := map[types.UID]bool{}
	for _, svc := range list {
		there[svc.UID] = true
		a, ours := assigned[svc.UID]
		refusals := e.refusals[key(svc)]
		var want []corev1.LoadBalancerIngress
		if ours && a.pending == "" && !slices.ContainsFunc(refusals, func(r gondola.PortRefusal) bool { return blocks(r, a) }) {
			want = ingress(svc, a, e.addresses)
		}
		if isOurs(svc) || slices.Contains(svc.Finalizers, cleanup) && svc.Spec.LoadBalancerClass == nil {
			if err := s.settle(ctx, svc, ours, want); err != nil {
				return err
			}
		}
		s.events(svc, a, refusals, ours, len(want) > 0)
	}
	for uid := range s.told {
		if !there[uid] {
			delete(s.told, uid)
		}
	}
	return nil
}

// blocks says whether a port that is not open keeps a LoadBalancer pending.
func blocks(r gondola.PortRefusal, a assignment) bool {
	return !r.NodePort && (a.host && !r.Address.IsValid() || slices.Contains(a.addresses, r.Address))
}

// ingress is the status of a LoadBalancer that is served.
func ingress(svc *corev1.Service, a assignment, host []netip.Addr) (out []corev1.LoadBalancerIngress) {
	addrs := a.addresses
	if a.host {
		addrs = host
	}
	for _, addr := range addrs {
		family := corev1.IPv4Protocol
		if addr.Is6() {
			family = corev1.IPv6Protocol
		}
		if slices.Contains(svc.Spec.IPFamilies, family) {
			out = append(out, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: new(corev1.LoadBalancerIPModeVIP)})
		}
	}
	return out
}

// settle writes a status that has changed, and lets a Service go that nothing leads to any more.
func (s *services) settle(ctx context.Context, svc *corev1.Service, ours bool, want []corev1.LoadBalancerIngress) error {
	api, o := s.client.CoreV1().Services(svc.Namespace), svc.DeepCopy()
	if !equality.Semantic.DeepEqual(svc.Status.LoadBalancer.Ingress, want) {
		o.Status.LoadBalancer.Ingress = want
		fresh, err := api.UpdateStatus(ctx, o, metav1.UpdateOptions{})
		if passing(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("service %s: tell its addresses: %w", key(svc), err)
		}
		o = fresh
	}
	if i := slices.Index(o.Finalizers, cleanup); i >= 0 && !ours {
		o.Finalizers = slices.Delete(o.Finalizers, i, i+1)
		if _, err := api.Update(ctx, o, metav1.UpdateOptions{}); err != nil && !passing(err) {
			return fmt.Errorf("service %s: remove its finalizer: %w", key(svc), err)
		}
	}
	return nil
}

// events says once what is new about a Service.
func (s *services) events(svc *corev1.Service, a assignment, refusals []gondola.PortRefusal, ours, served bool) {
	kind, reason, text := corev1.EventTypeNormal, "", ""
	var problems []string
	for _, p := range svc.Spec.Ports {
		if p.Protocol == corev1.ProtocolSCTP && svc.Spec.Type != corev1.ServiceTypeExternalName {
			problems = append(problems, fmt.Sprintf("port %d: protocol SCTP is not supported; use TCP or UDP", p.Port))
		}
	}
	if a.pending != "" {
		problems = append(problems, a.pending)
	}
	for _, r := range refusals {
		what := "port"
		if r.NodePort {
			what = "node port"
		}
		where := ""
		if r.Address.IsValid() {
			where = " of " + r.Address.String()
		}
		problems = append(problems, fmt.Sprintf("%s %d/%s%s is not open: %s", what, r.Port, r.Protocol, where, r.Reason))
	}
	switch {
	case len(problems) > 0:
		kind, reason, text = corev1.EventTypeWarning, "PortUnavailable", strings.Join(problems, "; ")
		if ours && !served {
			reason = "LoadBalancerPending"
		}
	case ours && served:
		reason, text = "EnsuredLoadBalancer", "Ensured load balancer"
	}
	if had := s.told[svc.UID]; had == text {
		return
	} else if s.told[svc.UID] = text; text == "" || had == "" && reason == "EnsuredLoadBalancer" && len(svc.Status.LoadBalancer.Ingress) > 0 {
		return // nothing to say, or known from before we began
	}
	s.recorder.Event(svc, kind, reason, text)
}
