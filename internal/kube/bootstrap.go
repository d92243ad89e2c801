package kube

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"gondola/internal/kube/storage"
)

// dnsService is the name of the cluster's DNS Service, as everywhere.
const dnsService = "kube-dns"

var ours = map[string]string{"app.kubernetes.io/managed-by": "gondola"}

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
	roles, bindings := client.RbacV1().ClusterRoles(), client.RbacV1().ClusterRoleBindings()
	role := &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}
	if _, err := roles.Create(ctx, role, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		if _, err := roles.Update(ctx, role, metav1.UpdateOptions{}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	_, err := bindings.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // what a binding points at cannot change
	}
	return err
}

// ensureDNSService makes the Service that Pods ask names of. It has no selector: its endpoint is CoreDNS in this process.
func ensureDNSService(ctx context.Context, client kubernetes.Interface, cfg *Config) error {
	services := client.CoreV1().Services(metav1.NamespaceSystem)
	if _, err := services.Get(ctx, dnsService, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err // there, or not to be had; its address never changes
	}
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
	_, err := services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: dnsService, Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS",
			"kubernetes.io/cluster-service": "true", "app.kubernetes.io/managed-by": "gondola"}},
		Spec: corev1.ServiceSpec{ClusterIP: ips[0], ClusterIPs: ips, IPFamilies: families, IPFamilyPolicy: &policy,
			Ports: []corev1.ServicePort{port("dns", corev1.ProtocolUDP), port("dns-tcp", corev1.ProtocolTCP)}},
	}, metav1.CreateOptions{})
	return err
}

// ensureDNSEndpoints points the DNS Service at an address of this host.
func ensureDNSEndpoints(ctx context.Context, client kubernetes.Interface, address netip.Addr, number int32) error {
	kind, name := discoveryv1.AddressTypeIPv4, dnsService+"-gondola"
	if address.Is6() {
		kind, name = discoveryv1.AddressTypeIPv6, dnsService+"-gondola-v6"
	}
	ready := true
	port := func(name string, protocol corev1.Protocol) discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number}
	}
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceSystem)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: dnsService, discoveryv1.LabelManagedBy: "gondola"}},
		AddressType: kind,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{port("dns", corev1.ProtocolUDP), port("dns-tcp", corev1.ProtocolTCP)},
	}
	_, err := slices.Create(ctx, slice, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = slices.Update(ctx, slice, metav1.UpdateOptions{})
	}
	return err
}
