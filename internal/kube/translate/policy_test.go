package translate_test

import (
	"bytes"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"gondola/internal/kube/translate"
)

func TestPolicies(t *testing.T) {
	goldens(t, "policy-", func(t *testing.T, files map[string][]byte) (string, []byte) {
		in := policyInputs(t, files["objects.yaml"])
		var first []byte
		for range 20 { // selectors are maps, and informers have no order
			set := translate.Policies(in)
			if err := set.Validate(); err != nil {
				t.Errorf("the platform would refuse it: %v", err)
			}
			made := toYAML(t, set)
			if first == nil {
				first = made
			}
			if !bytes.Equal(first, made) {
				t.Fatalf("the same policies gave\n%s\nand then\n%s", first, made)
			}
			in.Policies = append(in.Policies[1:], in.Policies[0])
			in.Peers = append(in.Peers[1:], in.Peers[0])
		}
		return "policies.yaml", first
	})
}

func policyInputs(t *testing.T, objects []byte) translate.PolicyInputs {
	t.Helper()
	in := translate.PolicyInputs{Nodes: []netip.Addr{netip.MustParseAddr("10.127.240.65")}}
	for _, doc := range bytes.Split(objects, []byte("---\n")) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind.Kind {
		case "NetworkPolicy":
			np := &networkingv1.NetworkPolicy{}
			err = yaml.UnmarshalStrict(doc, np)
			in.Policies = append(in.Policies, np)
		case "Namespace":
			ns := &corev1.Namespace{}
			err = yaml.UnmarshalStrict(doc, ns)
			in.Namespaces = append(in.Namespaces, ns)
		case "Pod":
			pod := parsePod(t, doc)
			var addrs []netip.Addr
			for _, ip := range pod.Status.PodIPs {
				addrs = append(addrs, netip.MustParseAddr(ip.IP))
			}
			in.Peers = append(in.Peers, translate.PeerOf(pod, addrs))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func TestLabelChanges(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Labels = map[string]string{"same": "1", "new": "", "other": "2"}
	changes := translate.LabelChanges(pod, map[string]string{
		"kubernetes_label/same": "1", "kubernetes_label/other": "1", "kubernetes_label/gone": "1", "kubernetes_pod": "p"})
	got := map[string]string{}
	for k, v := range changes {
		if got[k] = "(goes)"; v != nil {
			got[k] = *v
		}
	}
	want := map[string]string{"kubernetes_label/new": "-", "kubernetes_label/other": "2", "kubernetes_label/gone": "(goes)"}
	if !equalYAML(t, got, want) {
		t.Errorf("LabelChanges = %v, want %v", got, want)
	}
	if changes := translate.LabelChanges(pod, translate.LabelMetadata(pod)); len(changes) > 0 {
		t.Errorf("LabelChanges of the Pod's own metadata = %v, want none", changes)
	}
}
