// Package translate turns a Pod into the Config of one Machine, and what became of the Machine into the Pod's status.
//
// Everything here is pure: what has to be asked for (ConfigMaps, Secrets, tokens, Kubernetes Services) arrives in Inputs, and the same input
// always gives the same output. Nothing of a Pod is dropped in silence: a field that cannot be carried out is refused by its path.
package translate

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"

	"gondola"
)

// Keys of a Machine's metadata that say which Pod it runs.
const (
	MetadataCluster   = "kubernetes_cluster"
	MetadataNamespace = "kubernetes_namespace"
	MetadataPod       = "kubernetes_pod"
	MetadataUID       = "kubernetes_uid"
	MetadataNode      = "kubernetes_node"
)

// Inputs is what the translation of a Pod needs beside the Pod.
type Inputs struct {
	Cluster string
	Domain  string       // DNS domain of the cluster
	DNS     []netip.Addr // of the cluster's DNS; if empty, the Machine gets its host's resolvers
	Region  gondola.Region
	Gateway string       // that stands for the Pod's node; if empty, there is none
	HostIPs []netip.Addr // the node's own addresses; if empty, the Pod's are those of its Machine's host
	// Driver is what the Pod's RuntimeClass names as its handler, or what a Pod without a class falls back on; if empty, the default.
	Driver        string
	DefaultDriver string              // of Pods without a class; if empty, gvisor
	Allocatable   corev1.ResourceList // of the node: what a resourceFieldRef to a missing limit means

	ConfigMaps map[string]*corev1.ConfigMap // by name, of the Pod's namespace; those that do not exist are missing
	Secrets    map[string]*corev1.Secret
	Services   []*corev1.Service   // of the Pod's namespace, and default/kubernetes
	Tokens     map[TokenKey]string // see Tokens
	Claims     map[string]Claim    // by volume of the Pod
}

// driver is what isolates the Pod; empty if its RuntimeClass names none that is known.
func (in Inputs) driver(pod *corev1.Pod) string {
	if c := pod.Spec.RuntimeClassName; c == nil || *c == "" {
		return cmp.Or(in.Driver, in.DefaultDriver, "gvisor")
	}
	return in.Driver
}

// MachineName returns the name of the Machine that runs the Pod of this UID: a Machine belongs to one UID for ever.
func MachineName(uid types.UID) string { return "pod-" + string(uid) }

// PodToMachine returns the request that makes the Pod's Machine.
//
// An *UnsupportedError lists every field of the Pod that cannot be carried out; a *MissingError names a ConfigMap, Secret, key or claim that has
// to appear first.
func PodToMachine(pod *corev1.Pod, in Inputs) (gondola.CreateRequest, error) {
	if fields := Unsupported(pod, in.driver(pod), in.Gateway); len(fields) > 0 {
		return gondola.CreateRequest{}, &UnsupportedError{Fields: fields}
	}
	payload, err := Payload(pod, in)
	if err != nil {
		return gondola.CreateRequest{}, err
	}
	claimed, err := claims(pod, in)
	if err != nil {
		return gondola.CreateRequest{}, err
	}
	requests, limits := podResources(pod)
	metadata := LabelMetadata(pod)
	maps.Copy(metadata, map[string]string{
		MetadataCluster: in.Cluster, MetadataNamespace: pod.Namespace, MetadataPod: pod.Name,
		MetadataUID: string(pod.UID), MetadataNode: pod.Spec.NodeName,
	})
	cfg := gondola.Config{
		Guest:    gondola.GuestFor(requests),
		DNS:      dnsConfig(pod, in),
		Metadata: metadata,
		Mounts:   claimed,
		Volumes:  volumes(pod),
		Gondola: &gondola.ConfigExtension{
			Requests: &requests, Limits: limits, Driver: in.Driver, Hosts: hosts(pod), ShareProc: isTrue(pod.Spec.ShareProcessNamespace),
			RetryPull: true, RestartBackoff: "kubernetes", ClusterDomain: in.Domain, Label: label(pod), FSGroup: fsGroup(pod),
			Gateway: gatewayUse(pod, in),
		},
	}
	var before []gondola.Dependency // what the next container waits for
	for i := range pod.Spec.InitContainers {
		k := &pod.Spec.InitContainers[i]
		c, err := container(pod, k, in, true)
		if err != nil {
			return gondola.CreateRequest{}, err
		}
		c.DependsOn = before
		cfg.Containers = append(cfg.Containers, c)
		before = []gondola.Dependency{{Name: k.Name, Condition: gondola.DependsExited}}
		if isSidecar(k) {
			before[0].Condition = gondola.DependsStarted
		}
	}
	for i := range pod.Spec.Containers {
		c, err := container(pod, &pod.Spec.Containers[i], in, false)
		if err != nil {
			return gondola.CreateRequest{}, err
		}
		c.DependsOn = before
		cfg.Containers = append(cfg.Containers, c)
	}
	return gondola.CreateRequest{
		Name: MachineName(pod.UID), Region: string(in.Region), Config: cfg, Gondola: &gondola.CreateExtension{Payload: payload},
	}, nil
}

// container translates one container; its place in the order is the caller's.
func container(pod *corev1.Pod, c *corev1.Container, in Inputs, init bool) (gondola.Container, error) {
	env, _, err := environment(pod, c, in)
	if err != nil {
		return gondola.Container{}, err
	}
	declared := map[string]bool{}
	for _, e := range env {
		declared[e.Name] = true
	}
	out := gondola.Container{
		Name: c.Name, Image: c.Image, Entrypoint: references(c.Command, declared), Cmd: references(c.Args, declared),
		Mounts:  mounts(pod, c),
		Restart: restartPolicy(pod, c, init),
		Stop:    &gondola.StopConfig{Timeout: gracePeriod(pod)},
		Gondola: &gondola.ContainerExtension{
			WorkingDir: c.WorkingDir, Env: env, Expand: true, Init: init,
			Requests: amount(c.Resources.Requests), Limits: amount(c.Resources.Limits),
			PullPolicy: pullPolicy(c.ImagePullPolicy, c.Image), TTY: c.TTY, Stdin: c.Stdin, StdinOnce: c.StdinOnce, Security: security(pod, c),
			Termination: &gondola.Termination{
				Path: c.TerminationMessagePath, FallbackLog: c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError,
			},
			RestartRules: restartRules(c), ResizeRestart: resizeRestart(c),
		},
	}
	if l := c.Lifecycle; l != nil {
		out.Gondola.PostStart, out.Gondola.PreStop = hook(l.PostStart, c), hook(l.PreStop, c)
		if l.StopSignal != nil {
			out.Stop.Signal = ptr(gondola.Signal(*l.StopSignal))
		}
	}
	if !init || isSidecar(c) {
		out.Healthchecks = healthchecks(c)
	}
	out.Gondola.Sidecar = init && isSidecar(c)
	return out, nil
}

// isSidecar says whether an init container runs on beside the others
// (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/).
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// label is how a kubelet names a Pod in its messages.
func label(pod *corev1.Pod) string {
	return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")"
}

func fsGroup(pod *corev1.Pod) *int64 {
	if s := pod.Spec.SecurityContext; s != nil {
		return s.FSGroup
	}
	return nil
}

// restartPolicy says when the container runs again: its own policy where it has one, else the Pod's; an init container runs once.
func restartPolicy(pod *corev1.Pod, c *corev1.Container, init bool) *gondola.RestartPolicy {
	policy := string(pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
	}
	switch {
	case policy == string(corev1.RestartPolicyNever):
		return &gondola.RestartPolicy{Policy: gondola.RestartNo}
	case policy == string(corev1.RestartPolicyOnFailure) || init && !isSidecar(c):
		return &gondola.RestartPolicy{Policy: gondola.RestartOnFailure, MaxRetries: -1}
	default:
		return &gondola.RestartPolicy{Policy: gondola.RestartAlways}
	}
}

func restartRules(c *corev1.Container) (out []gondola.RestartRule) {
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil {
			continue
		}
		rule := gondola.RestartRule{ExitCodes: []int{}, Not: r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpNotIn}
		for _, code := range r.ExitCodes.Values {
			rule.ExitCodes = append(rule.ExitCodes, int(code))
		}
		out = append(out, rule)
	}
	return out
}

// podResources returns what the scheduler reckons with, and the Pod's limits; a limit that a container lacks, an init
// container too, is none of the Pod, as of the cgroup that a kubelet would make for it.
func podResources(pod *corev1.Pod) (gondola.Resources, *gondola.Resources) {
	requests, limits := podLists(pod)
	r := gondola.Resources{CPUMillis: requests.Cpu().MilliValue(), MemoryBytes: requests.Memory().Value()}
	return r, amount(limits)
}

func podLists(pod *corev1.Pod) (requests, limits corev1.ResourceList) {
	requests = resource.PodRequests(pod, resource.PodResourcesOptions{})
	limits = resource.PodLimits(pod, resource.PodResourcesOptions{})
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			_, limited := c.Resources.Limits[name]
			if whole := pod.Spec.Resources; whole != nil && !limited {
				_, limited = whole.Limits[name]
			}
			if !limited {
				delete(limits, name)
			}
		}
	}
	return requests, limits
}

func amount(l corev1.ResourceList) *gondola.Resources {
	r := gondola.Resources{CPUMillis: l.Cpu().MilliValue(), MemoryBytes: l.Memory().Value()}
	if r == (gondola.Resources{}) {
		return nil
	}
	return &r
}

// pullPolicy is the Pod's, or what the API server would have defaulted: always for the tag latest.
func pullPolicy(policy corev1.PullPolicy, image string) string {
	switch policy {
	case corev1.PullAlways:
		return "always"
	case corev1.PullNever:
		return "never"
	case corev1.PullIfNotPresent:
		return "if_not_present"
	}
	if isLatest(image) {
		return "always"
	}
	return "if_not_present"
}

// isLatest says whether the reference has the tag latest, by name or for want of any.
func isLatest(image string) bool {
	if strings.Contains(image, "@") {
		return false
	}
	name := image[strings.LastIndex(image, "/")+1:]
	_, tag, tagged := strings.Cut(name, ":")
	return !tagged || tag == "latest"
}

func gracePeriod(pod *corev1.Pod) *gondola.Duration {
	seconds := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	return ptr(gondola.Duration(time.Duration(seconds) * time.Second))
}

func hosts(pod *corev1.Pod) []gondola.HostAlias {
	var out []gondola.HostAlias
	for _, a := range pod.Spec.HostAliases {
		out = append(out, gondola.HostAlias{IP: a.IP, Names: a.Hostnames})
	}
	return out
}

func isTrue(b *bool) bool { return b != nil && *b }

func ptr[T any](v T) *T { return &v }

// Requests returns what the Pod reserves: the scheduler's own sum.
func Requests(pod *corev1.Pod) gondola.Resources {
	requests, _ := podResources(pod)
	return requests
}
