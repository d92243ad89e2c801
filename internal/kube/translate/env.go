package translate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	podresource "k8s.io/kubernetes/pkg/api/v1/resource"
	podshelper "k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"gondola"
)

// environment returns the container's variables in the order in which they are set, and the values of those that are secret or may be others
// at the container's next start: a container gets what its Pod, ConfigMaps and Secrets say when it is started. The pilot replaces references
// in every value of the Config, so what must stay as it is has its dollars doubled.
func environment(pod *corev1.Pod, c *corev1.Container, in Inputs) ([]gondola.EnvVar, map[string]string, error) {
	e := envBuilder{pod: pod, container: c, in: in, declared: map[string]bool{}, payload: map[string]string{}}
	e.services()
	for _, from := range c.EnvFrom {
		if err := e.from(from); err != nil {
			return nil, nil, err
		}
	}
	for _, v := range c.Env {
		if err := e.variable(v); err != nil {
			return nil, nil, err
		}
	}
	return e.vars, e.payload, nil
}

type envBuilder struct {
	pod       *corev1.Pod
	container *corev1.Container
	in        Inputs
	vars      []gondola.EnvVar
	declared  map[string]bool
	payload   map[string]string
}

func (e *envBuilder) add(v gondola.EnvVar) {
	e.vars = append(e.vars, v)
	e.declared[v.Name] = true
}

// addPayload sets a variable by the payload. One that is optional may be gone from there when the container is started again.
func (e *envBuilder) addPayload(name, value string, optional bool) {
	e.payload[name] = value // the pilot takes it as it is
	e.add(gondola.EnvVar{Name: name, Secret: true, Optional: optional})
}

// services sets the variables of Kubernetes Services, as a kubelet does: kubernetes always, those of the namespace where links are wanted.
func (e *envBuilder) services() {
	links := e.pod.Spec.EnableServiceLinks == nil || *e.pod.Spec.EnableServiceLinks
	byName := map[string]*corev1.Service{}
	for _, s := range e.in.Services {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
			continue
		}
		if s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes" {
			if byName[s.Name] == nil {
				byName[s.Name] = s
			}
		} else if s.Namespace == e.pod.Namespace && links {
			byName[s.Name] = s
		}
	}
	var sorted []*corev1.Service
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		sorted = append(sorted, byName[name])
	}
	vars := envvars.FromServices(sorted)
	slices.SortStableFunc(vars, func(a, b corev1.EnvVar) int { return cmp.Compare(a.Name, b.Name) })
	for _, v := range vars {
		e.add(gondola.EnvVar{Name: v.Name, Value: literal(v.Value)})
	}
}

func (e *envBuilder) from(f corev1.EnvFromSource) error {
	switch {
	case f.ConfigMapRef != nil:
		cm, ok := e.in.ConfigMaps[f.ConfigMapRef.Name]
		if !ok {
			return e.missing(f.ConfigMapRef.Optional, "configmap %q not found", f.ConfigMapRef.Name)
		}
		for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
			e.addPayload(f.Prefix+k, cm.Data[k], true)
		}
	case f.SecretRef != nil:
		s, ok := e.in.Secrets[f.SecretRef.Name]
		if !ok {
			return e.missing(f.SecretRef.Optional, "secret %q not found", f.SecretRef.Name)
		}
		for _, k := range slices.Sorted(maps.Keys(s.Data)) {
			e.addPayload(f.Prefix+k, string(s.Data[k]), true)
		}
	}
	return nil
}

func (e *envBuilder) variable(v corev1.EnvVar) error {
	if v.Value != "" || v.ValueFrom == nil {
		e.add(gondola.EnvVar{Name: v.Name, Value: reference(v.Value, e.declared)})
		return nil
	}
	switch f := v.ValueFrom; {
	case f.FieldRef != nil:
		return e.field(v.Name, f.FieldRef)
	case f.ResourceFieldRef != nil:
		value, err := resourceField(e.pod, e.container, f.ResourceFieldRef, e.in.Allocatable)
		if err != nil {
			return &MissingError{Container: e.container.Name, Message: err.Error()}
		}
		e.add(gondola.EnvVar{Name: v.Name, Value: value})
	case f.ConfigMapKeyRef != nil:
		r := f.ConfigMapKeyRef
		cm, ok := e.in.ConfigMaps[r.Name]
		if !ok {
			return e.missing(r.Optional, "configmap %q not found", r.Name)
		}
		value, ok := cm.Data[r.Key]
		if !ok {
			return e.missing(r.Optional, "couldn't find key %v in ConfigMap %v/%v", r.Key, e.pod.Namespace, r.Name)
		}
		e.addPayload(v.Name, value, isTrue(r.Optional))
	case f.SecretKeyRef != nil:
		r := f.SecretKeyRef
		s, ok := e.in.Secrets[r.Name]
		if !ok {
			return e.missing(r.Optional, "secret %q not found", r.Name)
		}
		value, ok := s.Data[r.Key]
		if !ok {
			return e.missing(r.Optional, "couldn't find key %v in Secret %v/%v", r.Key, e.pod.Namespace, r.Name)
		}
		e.addPayload(v.Name, string(value), isTrue(r.Optional))
	case f.FileKeyRef != nil:
		r := f.FileKeyRef
		volume, _ := mountName(e.pod, r.VolumeName)
		e.add(gondola.EnvVar{Name: v.Name, File: &gondola.EnvFile{Volume: volume, Path: r.Path, Key: r.Key, Optional: isTrue(r.Optional)}})
	}
	return nil
}

// hostIPs are the addresses of a node that has some of its own; empty for other fields.
func hostIPs(path string, own []netip.Addr) string {
	own = onePerFamily(own)
	switch {
	case len(own) == 0:
		return ""
	case path == "status.hostIP":
		return own[0].String()
	case path == "status.hostIPs":
		list := make([]string, len(own))
		for i, a := range own {
			list[i] = a.String()
		}
		return strings.Join(list, ",")
	}
	return ""
}

// runtimeFields are the fields of a Pod that are known only on its host.
var runtimeFields = map[string]string{
	"status.podIP": "pod_ip", "status.podIPs": "pod_ips", "status.hostIP": "host_ip", "status.hostIPs": "host_ips",
}

func (e *envBuilder) field(name string, f *corev1.ObjectFieldSelector) error {
	path, _, err := podshelper.ConvertDownwardAPIFieldLabel(cmp.Or(f.APIVersion, "v1"), f.FieldPath, "")
	if err != nil {
		return &MissingError{Container: e.container.Name, Message: err.Error()}
	}
	if own := hostIPs(path, e.in.HostIPs); own != "" {
		e.add(gondola.EnvVar{Name: name, Value: own})
		return nil
	}
	if field, ok := runtimeFields[path]; ok {
		e.add(gondola.EnvVar{Name: name, Field: field})
		return nil
	}
	value, err := podField(e.pod, path)
	if err != nil {
		return &MissingError{Container: e.container.Name, Message: err.Error()}
	}
	if strings.HasPrefix(path, "metadata.labels") || strings.HasPrefix(path, "metadata.annotations") {
		e.addPayload(name, value, false)
		return nil
	}
	e.add(gondola.EnvVar{Name: name, Value: literal(value)})
	return nil
}

func (e *envBuilder) missing(optional *bool, format string, args ...any) error {
	if isTrue(optional) {
		return nil
	}
	return &MissingError{Container: e.container.Name, Message: fmt.Sprintf(format, args...)}
}

// podField reads a field that the Pod itself tells.
func podField(pod *corev1.Pod, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	}
	return fieldpath.ExtractFieldPathAsString(pod, path)
}

// resourceField reads a container's request or limit; a limit that is not set is the Pod's own, or else what the node has.
func resourceField(pod *corev1.Pod, c *corev1.Container, f *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	if pod.Spec.Resources != nil {
		allocatable = allocatable.DeepCopy()
		for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if limit, ok := pod.Spec.Resources.Limits[r]; ok && !limit.IsZero() {
				allocatable[r] = limit
			}
		}
	}
	name := f.ContainerName
	if name == "" {
		name = c.Name
	}
	return podresource.ExtractResourceValueByContainerNameAndNodeAllocatable(f, pod, name, allocatable)
}

// literal protects a value from the replacement of references.
func literal(s string) string {
	if strings.Contains(s, "$(") || strings.Contains(s, "$$") {
		return strings.ReplaceAll(s, "$", "$$")
	}
	return s
}

// reference keeps the references to variables that are declared and protects all others, so that only what the Pod declares is replaced and
// never what an image brings.
func reference(s string, declared map[string]bool) string {
	if !strings.Contains(s, "$") {
		return s
	}
	const open = "\x00" // stands for a dollar of a reference that stays one
	out := expansion.Expand(s, func(name string) string {
		if declared[name] {
			return open + "(" + name + ")"
		}
		return "$(" + name + ")"
	})
	return strings.ReplaceAll(strings.ReplaceAll(out, "$", "$$"), open, "$")
}

func references(list []string, declared map[string]bool) []string {
	var out []string
	for _, s := range list {
		out = append(out, reference(s, declared))
	}
	return out
}
