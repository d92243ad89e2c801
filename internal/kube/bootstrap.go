package kube

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"gondola/internal/kube/storage"
)

// dnsService is the name of the cluster's DNS Service, as everywhere.
const dnsService = "kube-dns"

// ours is the label of all that is made here.
var ours = map[string]string{"app.kubernetes.io/managed-by": "gondola"}

// andOurs adds it to labels.
func andOurs(labels map[string]string) map[string]string {
	maps.Copy(labels, ours)
	return labels
}

// objects is what a client does with one kind of object.
type objects[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, object T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, object T, opts metav1.UpdateOptions) (T, error)
}

// put makes an object where there is none of its name. The one that is there is updated if correct, which makes it what it should be, says that it
// was another; a nil correct leaves it as it is.
func put[T metav1.Object](ctx context.Context, all objects[T], want T, correct func(have T) bool) error {
	have, err := all.Get(ctx, want.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = all.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && correct != nil && correct(have):
		_, err = all.Update(ctx, have, metav1.UpdateOptions{})
	}
	return err
}

// set makes have what is wanted, and says whether it was another.
func set[V any](have *V, want V) bool {
	other := !equality.Semantic.DeepEqual(*have, want)
	*have = want
	return other
}

// bootstrap makes the objects that the cluster's own parts need; doing it again corrects them.
func bootstrap(ctx context.Context, client kubernetes.Interface, cfg *Config) error {
	for user, rules := range map[string][]rbacv1.PolicyRule{dnsUser: dnsRules, providerUser: providerRules, storageUser: storage.Rules()} {
		if err := ensureRole(ctx, client, user, rules); err != nil {
			return fmt.Errorf("role %s: %w", user, err)
		}
	}
	if err := ensureRuntimeClasses(ctx, client, cfg.Drivers); err != nil {
		return fmt.Errorf("runtime classes: %w", err)
	}
	if err := ensureDNSService(ctx, client, cfg); err != nil {
		return fmt.Errorf("service %s: %w", dnsService, err)
	}
	for _, a := range []netip.Addr{cfg.Address, cfg.AddressV6} {
		if !a.IsValid() {
			continue
		}
		if err := ensureDNSEndpoints(ctx, client, a, int32(cfg.DNSPort)); err != nil {
			return fmt.Errorf("endpoints of service %s: %w", dnsService, err)
		}
	}
	return nil
}

func rule(group string, verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Verbs: verbs, Resources: resources}
}

var (
	read   = []string{"get", "list", "watch"}
	change = []string{"update", "patch"}
	record = []string{"create", "update", "patch"}
	all    = []string{"get", "list", "watch", "create", "update", "patch", "delete"}
)

// dnsRules are what CoreDNS's own manifest gives it.
var dnsRules = []rbacv1.PolicyRule{
	rule("", read, "endpoints", "services", "pods", "namespaces"),
	rule("discovery.k8s.io", read, "endpointslices"),
}

// providerRules are for what concerns no single node: what a node may do, it does as itself.
var providerRules = []rbacv1.PolicyRule{
	rule("", read, "services", "endpoints", "namespaces", "nodes", "pods"),
	rule("", change, "services", "services/status", "pods/status", "nodes/status"),
	rule("", []string{"delete"}, "pods"),
	rule("", record, "events"),
	rule("events.k8s.io", record, "events"),
	rule("discovery.k8s.io", read, "endpointslices"),
	rule("networking.k8s.io", read, "networkpolicies"),
	rule("", read, "persistentvolumes", "persistentvolumeclaims"),
	rule("coordination.k8s.io", all, "leases"),
	rule("authentication.k8s.io", []string{"create"}, "tokenreviews"), // of callers of the kubelet API
	rule("authorization.k8s.io", []string{"create"}, "subjectaccessreviews"),
}

// ensureRole gives a user of ours exactly these rules, by a ClusterRole and binding of the user's name.
func ensureRole(ctx context.Context, client kubernetes.Interface, user string, rules []rbacv1.PolicyRule) error {
	meta := metav1.ObjectMeta{Name: user, Labels: ours}
	err := put(ctx, client.RbacV1().ClusterRoles(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, func(have *rbacv1.ClusterRole) bool {
		return set(&have.Rules, rules)
	})
	if err != nil {
		return err
	}
	return put(ctx, client.RbacV1().ClusterRoleBindings(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}}, nil) // what a binding points at cannot change
}

// ensureDNSService makes the Service that Pods ask names of. It has no selector: its endpoint is CoreDNS in this process.
func ensureDNSService(ctx context.Context, client kubernetes.Interface, cfg *Config) error {
	addresses := cfg.dnsAddresses()
	policy := corev1.IPFamilyPolicySingleStack
	families := []corev1.IPFamily{corev1.IPv4Protocol}
	if len(addresses) > 1 {
		policy, families = corev1.IPFamilyPolicyRequireDualStack, append(families, corev1.IPv6Protocol)
	}
	var ips []string
	for _, a := range addresses {
		ips = append(ips, a.String())
	}
	port := func(name string, protocol corev1.Protocol) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Protocol: protocol, Port: 53, TargetPort: intstr.FromInt(cfg.DNSPort)}
	}
	return put(ctx, client.CoreV1().Services(metav1.NamespaceSystem), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: dnsService, Labels: andOurs(map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS",
			"kubernetes.io/cluster-service": "true"})},
		Spec: corev1.ServiceSpec{ClusterIP: ips[0], ClusterIPs: ips, IPFamilies: families, IPFamilyPolicy: &policy,
			Ports: []corev1.ServicePort{port("dns", corev1.ProtocolUDP), port("dns-tcp", corev1.ProtocolTCP)}},
	}, nil) // its address never changes
}

// ensureDNSEndpoints points the DNS Service at an address of this host.
func ensureDNSEndpoints(ctx context.Context, client kubernetes.Interface, address netip.Addr, number int32) error {
	return ensureEndpoint(ctx, client, dnsService, address, endpointPort("dns", corev1.ProtocolUDP, number), endpointPort("dns-tcp", corev1.ProtocolTCP, number))
}

// ensureEndpoint points a Service of kube-system, which has no selector, at an address of this host.
func ensureEndpoint(ctx context.Context, client kubernetes.Interface, service string, address netip.Addr, ports ...discoveryv1.EndpointPort) error {
	kind, name, ready := discoveryv1.AddressTypeIPv4, service+"-gondola", true
	if address.Is6() {
		kind, name = discoveryv1.AddressTypeIPv6, name+"-v6"
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "gondola"}},
		AddressType: kind,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       ports,
	}
	return put(ctx, client.DiscoveryV1().EndpointSlices(metav1.NamespaceSystem), want, func(have *discoveryv1.EndpointSlice) bool {
		elsewhere, otherwise := set(&have.Endpoints, want.Endpoints), set(&have.Ports, want.Ports)
		return elsewhere || otherwise
	})
}

func endpointPort(name string, protocol corev1.Protocol, number int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number}
}
