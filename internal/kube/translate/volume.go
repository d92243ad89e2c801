package translate

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	podshelper "k8s.io/kubernetes/pkg/apis/core/pods"

	"gondola"
)

// volumes lists the Machine's volumes in the order of the Pod's; those that outlive it are claimed.
func volumes(pod *corev1.Pod) []gondola.TempVolume {
	var out []gondola.TempVolume
	for _, v := range pod.Spec.Volumes {
		if _, claimed := ClaimName(pod, &v); claimed {
			continue
		}
		tv := gondola.TempVolume{Name: v.Name}
		if e := v.EmptyDir; e != nil {
			tv.TempDir = &gondola.TempDir{StorageType: "disk"}
			if e.Medium == corev1.StorageMediumMemory {
				tv.TempDir.StorageType = "memory"
			}
			if e.SizeLimit != nil && e.SizeLimit.Value() > 0 {
				tv.TempDir.SizeMB = int((e.SizeLimit.Value() + 1<<20 - 1) >> 20)
			}
		}
		if v.HostPath != nil {
			tv.Gondola = nodePath(v.HostPath)
		}
		if i := v.Image; i != nil {
			tv.Image, tv.Gondola = i.Reference, &gondola.TempVolumeExtension{PullPolicy: pullPolicy(i.PullPolicy, i.Reference)}
		}
		out = append(out, tv)
	}
	return out
}

func mounts(pod *corev1.Pod, c *corev1.Container) []gondola.ContainerMount {
	var out []gondola.ContainerMount
	for _, m := range c.VolumeMounts {
		name, readOnly := mountName(pod, m.Name)
		readOnly = readOnly || m.ReadOnly
		cm := gondola.ContainerMount{Name: name, Path: m.MountPath}
		if !path.IsAbs(cm.Path) {
			cm.Path = "/" + cm.Path // as a kubelet does
		}
		if readOnly || m.SubPath != "" || m.SubPathExpr != "" {
			cm.Gondola = &gondola.MountExtension{ReadOnly: readOnly, SubPath: m.SubPath, SubPathExpr: m.SubPathExpr}
		}
		out = append(out, cm)
	}
	return out
}

// Payload returns what the Pod's Machine gets beside its Config: the files of its volumes, secret variables and registry credentials. It
// changes with the ConfigMaps, Secrets, tokens, labels and annotations that it is made from. A *MissingError says what is not there.
func Payload(pod *corev1.Pod, in Inputs) (*gondola.Payload, error) {
	p, err := Available(pod, in)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Available returns what of the Payload can be made: each volume, and the variables of each container, by itself. Where that is not all, it is
// Partial, and a *MissingError says what is not there.
func Available(pod *corev1.Pod, in Inputs) (p *gondola.Payload, missing error) {
	p = &gondola.Payload{Volumes: map[string][]gondola.PayloadFile{}, Env: map[string]map[string]string{}, Credentials: credentials(pod, in)}
	for _, v := range pod.Spec.Volumes {
		if _, claimed := ClaimName(pod, &v); claimed {
			continue
		}
		b := fileBuilder{pod: pod, in: in, volume: v.Name, files: map[string]gondola.PayloadFile{}}
		if err := b.source(v.VolumeSource); err != nil {
			missing = cmp.Or(missing, err)
			continue
		}
		if v.EmptyDir == nil && v.HostPath == nil && v.Image == nil {
			p.Volumes[v.Name] = b.sorted()
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			_, secrets, err := environment(pod, &list[i], in)
			if err != nil {
				missing = cmp.Or(missing, err)
				continue
			}
			p.Env[list[i].Name] = secrets
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if _, secrets, err := environment(pod, &c, in); err == nil && len(secrets) > 0 { // what one lacks is told when it is added
			p.Env[c.Name] = secrets
		}
	}
	if p.Partial = missing != nil; !p.Partial {
		maps.DeleteFunc(p.Env, func(_ string, secrets map[string]string) bool { return len(secrets) == 0 })
	}
	return p, missing
}

// fileBuilder collects the files of one volume; of two with one path the later wins.
type fileBuilder struct {
	pod    *corev1.Pod
	in     Inputs
	volume string
	files  map[string]gondola.PayloadFile
}

func (b *fileBuilder) source(s corev1.VolumeSource) error {
	switch {
	case s.ConfigMap != nil:
		return b.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.DefaultMode, s.ConfigMap.Optional)
	case s.Secret != nil:
		return b.secret(s.Secret.SecretName, s.Secret.Items, s.Secret.DefaultMode, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return b.downward(s.DownwardAPI.Items, s.DownwardAPI.DefaultMode)
	case s.Projected != nil:
		for _, p := range s.Projected.Sources {
			if err := b.projection(p, s.Projected.DefaultMode); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *fileBuilder) projection(p corev1.VolumeProjection, mode *int32) error {
	switch {
	case p.ConfigMap != nil:
		return b.configMap(p.ConfigMap.Name, p.ConfigMap.Items, mode, p.ConfigMap.Optional)
	case p.Secret != nil:
		return b.secret(p.Secret.Name, p.Secret.Items, mode, p.Secret.Optional)
	case p.DownwardAPI != nil:
		return b.downward(p.DownwardAPI.Items, mode)
	case p.ServiceAccountToken != nil:
		token, ok := b.in.Tokens[tokenKey(p.ServiceAccountToken)]
		if !ok {
			return b.missing(nil, "failed to fetch token of service account %q", b.pod.Spec.ServiceAccountName)
		}
		b.add(p.ServiceAccountToken.Path, []byte(token), tokenMode(b.pod, mode))
	}
	return nil
}

func (b *fileBuilder) configMap(name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	cm, ok := b.in.ConfigMaps[name]
	if !ok {
		return b.missing(optional, "configmap %q not found", name)
	}
	data := map[string][]byte{}
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	maps.Copy(data, cm.BinaryData)
	return b.keys(data, items, mode, optional)
}

func (b *fileBuilder) secret(name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	s, ok := b.in.Secrets[name]
	if !ok {
		return b.missing(optional, "secret %q not found", name)
	}
	return b.keys(s.Data, items, mode, optional)
}

// keys adds every key, or the chosen ones under their paths.
func (b *fileBuilder) keys(data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	if len(items) == 0 {
		for k, v := range data {
			b.add(k, v, mode)
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if err := b.missing(optional, "references non-existent config key: %s", it.Key); err != nil {
				return err
			}
			continue
		}
		b.add(it.Path, v, cmp.Or(it.Mode, mode))
	}
	return nil
}

func (b *fileBuilder) downward(items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	for _, it := range items {
		var value string
		var err error
		switch {
		case it.FieldRef != nil:
			var field string
			if field, _, err = podshelper.ConvertDownwardAPIFieldLabel(cmp.Or(it.FieldRef.APIVersion, "v1"), it.FieldRef.FieldPath, ""); err == nil {
				value, err = podField(b.pod, field)
			}
		case it.ResourceFieldRef != nil:
			value, err = resourceField(b.pod, &corev1.Container{}, it.ResourceFieldRef, b.in.Allocatable)
		}
		if err != nil {
			return b.missing(nil, "%v", err)
		}
		b.add(it.Path, []byte(value), cmp.Or(it.Mode, mode))
	}
	return nil
}

// add writes one file. With an fsGroup it belongs to that group and the group may read it.
func (b *fileBuilder) add(name string, data []byte, mode *int32) {
	f := gondola.PayloadFile{Path: path.Clean(name), Data: data, Mode: uint32(corev1.ConfigMapVolumeSourceDefaultMode)}
	if mode != nil {
		f.Mode = uint32(*mode)
	}
	if s := b.pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		f.Group = int(*s.FSGroup)
		f.Mode |= 0o440
	}
	b.files[f.Path] = f
}

func (b *fileBuilder) sorted() []gondola.PayloadFile {
	return slices.SortedFunc(maps.Values(b.files), func(x, y gondola.PayloadFile) int { return strings.Compare(x.Path, y.Path) })
}

func (b *fileBuilder) missing(optional *bool, format string, args ...any) error {
	if isTrue(optional) {
		return nil
	}
	return &MissingError{Volume: b.volume, Message: fmt.Sprintf(format, args...)}
}
