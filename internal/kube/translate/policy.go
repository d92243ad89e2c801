package translate

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"gondola"
)

// MetadataLabel precedes the key of each of a Pod's labels in the metadata of its Machine, by which policies select it.
const MetadataLabel = "kubernetes_label/"

// LabelMetadata returns a Pod's labels as metadata.
func LabelMetadata(pod *corev1.Pod) map[string]string {
	out := map[string]string{}
	for k, v := range pod.Labels {
		out[MetadataLabel+k] = labelValue(v)
	}
	return out
}

// LabelChanges returns what to change in a Machine's metadata for it to have the Pod's labels; nil values go.
func LabelChanges(pod *corev1.Pod, metadata map[string]string) map[string]*string {
	want, changes := LabelMetadata(pod), map[string]*string{}
	for k, v := range want {
		if have, ok := metadata[k]; !ok || have != v {
			changes[k] = &v
		}
	}
	for k := range metadata {
		if _, ok := want[k]; !ok && strings.HasPrefix(k, MetadataLabel) {
			changes[k] = nil
		}
	}
	return changes
}

// labelValue is how a label's value is written in metadata, which has no empty values: "-" is no label's value.
func labelValue(v string) string { return cmp.Or(v, "-") }

// PolicyInputs is what NetworkPolicies are resolved with.
type PolicyInputs struct {
	Policies   []*networkingv1.NetworkPolicy
	Namespaces []*corev1.Namespace
	Peers      []PolicyPeer // Pods that have addresses
	Nodes      []netip.Addr // what every Pod may reach
}

// PolicyPeer is a Pod as others see it.
type PolicyPeer struct {
	Namespace string
	Labels    map[string]string
	Addresses []netip.Addr
	Ports     []corev1.ContainerPort // those with names count
}

// PeerOf returns a Pod with these addresses as a peer.
func PeerOf(pod *corev1.Pod, addresses []netip.Addr) PolicyPeer {
	p := PolicyPeer{Namespace: pod.Namespace, Labels: pod.Labels, Addresses: addresses}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			p.Ports = append(p.Ports, c.Ports...)
		}
	}
	for i := range pod.Spec.Containers {
		p.Ports = append(p.Ports, pod.Spec.Containers[i].Ports...)
	}
	return p
}

// Policies resolves NetworkPolicies as networking.k8s.io/v1 defines them. The order of everything in the result is fixed. A policy with a
// selector that makes no sense, which the API server does not let in, selects and allows nothing.
func Policies(in PolicyInputs) gondola.PolicySet {
	r := policyResolver{in: in, groups: map[string]gondola.PolicyGroup{}}
	var set gondola.PolicySet
	for _, np := range in.Policies {
		set.Policies = append(set.Policies, r.policy(np))
	}
	slices.SortFunc(set.Policies, func(a, b gondola.Policy) int { return strings.Compare(a.Name, b.Name) })
	for _, g := range r.groups {
		set.Groups = append(set.Groups, g)
	}
	slices.SortFunc(set.Groups, func(a, b gondola.PolicyGroup) int { return strings.Compare(a.Name, b.Name) })
	return set
}

type policyResolver struct {
	in     PolicyInputs
	groups map[string]gondola.PolicyGroup // that rules name
}

func (r *policyResolver) policy(np *networkingv1.NetworkPolicy) gondola.Policy {
	p := gondola.Policy{Name: np.Namespace + "/" + np.Name, Selector: subjects(np)}
	types := np.Spec.PolicyTypes
	if len(types) == 0 {
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(np.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	if slices.Contains(types, networkingv1.PolicyTypeIngress) {
		p.Ingress = &gondola.PolicyRules{Allow: []gondola.PolicyRule{}}
		for _, rule := range np.Spec.Ingress {
			p.Ingress.Allow = append(p.Ingress.Allow, gondola.PolicyRule{Peers: r.peers(np.Namespace, rule.From), Ports: r.ports(rule.Ports)})
		}
	}
	if slices.Contains(types, networkingv1.PolicyTypeEgress) {
		p.Egress = &gondola.PolicyRules{Allow: []gondola.PolicyRule{}}
		for _, rule := range np.Spec.Egress {
			p.Egress.Allow = append(p.Egress.Allow, gondola.PolicyRule{Peers: r.peers(np.Namespace, rule.To), Ports: r.ports(rule.Ports)})
		}
		var nodes []gondola.PolicyPeer
		for _, a := range r.in.Nodes {
			one := netip.PrefixFrom(a, a.BitLen())
			nodes = append(nodes, gondola.PolicyPeer{Range: &one})
		}
		if len(nodes) > 0 {
			p.Egress.Allow = append(p.Egress.Allow, gondola.PolicyRule{Peers: nodes})
		}
	}
	return p
}

// subjects selects the Machines of the Pods that the policy is for.
func subjects(np *networkingv1.NetworkPolicy) gondola.MachineSelector {
	s := gondola.MachineSelector{Metadata: []gondola.MetadataMatch{{Key: MetadataNamespace, Op: "in", Values: []string{np.Namespace}}}}
	for k, v := range np.Spec.PodSelector.MatchLabels {
		s.Metadata = append(s.Metadata, gondola.MetadataMatch{Key: MetadataLabel + k, Op: "in", Values: []string{labelValue(v)}})
	}
	for _, e := range np.Spec.PodSelector.MatchExpressions {
		m := gondola.MetadataMatch{Key: MetadataLabel + e.Key}
		for _, v := range e.Values {
			m.Values = append(m.Values, labelValue(v))
		}
		slices.Sort(m.Values)
		switch e.Operator {
		case metav1.LabelSelectorOpNotIn:
			m.Op = "not_in"
		case metav1.LabelSelectorOpExists:
			m.Op = "exists"
		case metav1.LabelSelectorOpDoesNotExist:
			m.Op = "not_exists"
		default:
			m.Op = "in"
		}
		s.Metadata = append(s.Metadata, m)
	}
	slices.SortFunc(s.Metadata, func(a, b gondola.MetadataMatch) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Op, b.Op), slices.Compare(a.Values, b.Values))
	})
	return s
}

func (r *policyResolver) peers(namespace string, list []networkingv1.NetworkPolicyPeer) (out []gondola.PolicyPeer) {
	for _, p := range list {
		if p.IPBlock == nil {
			out = append(out, gondola.PolicyPeer{Group: r.pods(namespace, p.NamespaceSelector, p.PodSelector)})
			continue
		}
		prefix, err := netip.ParsePrefix(p.IPBlock.CIDR)
		if err != nil {
			out = append(out, gondola.PolicyPeer{Group: r.nobody()})
			continue
		}
		prefix = prefix.Masked()
		peer := gondola.PolicyPeer{Range: &prefix}
		for _, s := range p.IPBlock.Except {
			if e, err := netip.ParsePrefix(s); err == nil && e.Bits() >= prefix.Bits() && prefix.Contains(e.Addr()) {
				peer.Except = append(peer.Except, e.Masked())
			}
		}
		out = append(out, peer)
	}
	return out
}

// nobody is the group without members.
func (r *policyResolver) nobody() string {
	const name = "nobody"
	r.groups[name] = gondola.PolicyGroup{Name: name}
	return name
}

// pods is the group of the Pods that two selectors select: one group, however many policies have these selectors.
func (r *policyResolver) pods(namespace string, namespaces, pods *metav1.LabelSelector) string {
	if pods == nil {
		pods = &metav1.LabelSelector{}
	}
	ofPods, err := metav1.LabelSelectorAsSelector(pods)
	if err != nil {
		return r.nobody()
	}
	in := map[string]bool{namespace: true}
	name := "pods " + ofPods.String() + " in namespace " + namespace
	if namespaces != nil {
		ofNamespaces, err := metav1.LabelSelectorAsSelector(namespaces)
		if err != nil {
			return r.nobody()
		}
		name, in = "pods "+ofPods.String()+" in namespaces "+ofNamespaces.String(), map[string]bool{}
		for _, ns := range r.in.Namespaces {
			in[ns.Name] = ofNamespaces.Matches(labels.Set(ns.Labels))
		}
	}
	if _, known := r.groups[name]; known {
		return name
	}
	g := gondola.PolicyGroup{Name: name}
	for _, p := range r.in.Peers {
		if in[p.Namespace] && ofPods.Matches(labels.Set(p.Labels)) {
			g.Addresses = append(g.Addresses, p.Addresses...)
		}
	}
	slices.SortFunc(g.Addresses, netip.Addr.Compare)
	g.Addresses = slices.Compact(g.Addresses)
	r.groups[name] = g
	return name
}

func (r *policyResolver) ports(list []networkingv1.NetworkPolicyPort) (out []gondola.PolicyPort) {
	for _, p := range list {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		port := gondola.PolicyPort{Protocol: strings.ToLower(string(protocol))}
		switch {
		case p.Port == nil:
		case p.Port.Type == intstr.String:
			port = gondola.PolicyPort{Group: r.named(p.Port.StrVal, protocol)}
		default:
			port.Port = uint16(p.Port.IntVal)
			if p.EndPort != nil {
				port.EndPort = uint16(*p.EndPort)
			}
		}
		out = append(out, port)
	}
	return out
}

// named is the group of all ports with a name: whose they are, peers and the policy's own Pods tell.
func (r *policyResolver) named(port string, protocol corev1.Protocol) string {
	name := "port " + port + " " + strings.ToLower(string(protocol))
	if _, known := r.groups[name]; known {
		return name
	}
	g := gondola.PolicyGroup{Name: name}
	for _, p := range r.in.Peers {
		for _, c := range p.Ports {
			if c.Name != port || cmp.Or(c.Protocol, corev1.ProtocolTCP) != protocol {
				continue
			}
			for _, a := range p.Addresses {
				g.Ends = append(g.Ends, gondola.PolicyEnd{Address: a, Protocol: strings.ToLower(string(protocol)), Port: uint16(c.ContainerPort)})
			}
		}
	}
	slices.SortFunc(g.Ends, func(a, b gondola.PolicyEnd) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	g.Ends = slices.Compact(g.Ends)
	r.groups[name] = g
	return name
}
