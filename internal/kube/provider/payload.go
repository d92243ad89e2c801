package provider

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
	"gondola/internal/kube/translate"
)

// request translates the Pod with everything it names.
func (e *engine) request(ctx context.Context, n *node, pod *corev1.Pod) (gondola.CreateRequest, error) {
	driver, err := e.driver(ctx, n, pod)
	if err != nil {
		return gondola.CreateRequest{}, err
	}
	if fields := translate.Unsupported(pod, cmp.Or(driver, e.cfg.Drivers[0]), n.Gateway); len(fields) > 0 { // before anything else is asked for
		return gondola.CreateRequest{}, &translate.UnsupportedError{Fields: fields}
	}
	in, err := e.inputs(ctx, n, pod, driver)
	if err == nil {
		in.Tokens, _, err = n.podTokens(pod)
	}
	if err == nil {
		in.Claims, err = e.claims(ctx, pod)
	}
	if err != nil {
		return gondola.CreateRequest{}, err
	}
	return translate.PodToMachine(pod, in)
}

// driverOf is the driver that a Machine asked for when it was made, and keeps; empty: the default.
func driverOf(m *gondola.Machine) string {
	if m.Config == nil || m.Config.Gondola == nil {
		return ""
	}
	return m.Config.Gondola.Driver
}

// inputs gathers what the Pod names, but for its tokens and claims.
func (e *engine) inputs(ctx context.Context, n *node, pod *corev1.Pod, driver string) (in translate.Inputs, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	in = translate.Inputs{
		Driver: driver, DefaultDriver: e.cfg.Drivers[0], Cluster: e.cfg.Cluster, Domain: e.cfg.Domain, DNS: e.cfg.DNS, Region: n.Region, Gateway: n.Gateway, Allocatable: n.allocatable(),
		ConfigMaps: map[string]*corev1.ConfigMap{}, Secrets: map[string]*corev1.Secret{},
	}
	if n.Gateway != "" {
		in.HostIPs = n.Addresses
	}
	keys := map[objectKey]bool{}
	podutil.VisitPodConfigmapNames(pod, func(name string) bool { keys[objectKey{"configmap", pod.Namespace, name}] = true; return true })
	podutil.VisitPodSecretNames(pod, func(name string) bool { keys[objectKey{"secret", pod.Namespace, name}] = true; return true })
	n.objects.hold(pod.UID, keys)
	for k := range keys {
		obj, err := n.objects.get(ctx, k)
		if err != nil {
			return in, err
		}
		switch v := obj.(type) {
		case *corev1.ConfigMap:
			in.ConfigMaps[k.name] = v
		case *corev1.Secret:
			in.Secrets[k.name] = v
		}
	}
	in.Services, err = e.linked(pod.Namespace)
	return in, err
}

// podTokens returns the Pod's tokens, those that could be had, and when they want to be renewed; zero: it has none.
func (n *node) podTokens(pod *corev1.Pod) (tokens map[translate.TokenKey]string, renew time.Time, err error) {
	tokens = map[translate.TokenKey]string{}
	for _, k := range translate.Tokens(pod) {
		token, at, failed := n.token(pod, k)
		if failed != nil {
			err = fmt.Errorf("token of service account %s/%s: %w", pod.Namespace, pod.Spec.ServiceAccountName, failed)
			continue
		}
		tokens[k] = token
		if renew.IsZero() || at.Before(renew) {
			renew = at
		}
	}
	return tokens, renew, err
}

// linked lists the Kubernetes Services that Pods of a namespace learn of by variables.
func (e *engine) linked(namespace string) ([]*corev1.Service, error) {
	list, err := e.services.Services(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	if namespace != corev1.NamespaceDefault {
		if s, err := e.services.Services(corev1.NamespaceDefault).Get("kubernetes"); err == nil {
			list = append(slices.Clone(list), s)
		}
	}
	return list, nil
}

// token returns a service account token bound to the Pod, and when to ask for the next one.
func (n *node) token(pod *corev1.Pod, k translate.TokenKey) (string, time.Time, error) {
	var audiences []string
	if k.Audience != "" {
		audiences = []string{k.Audience}
	}
	tr, err := n.tokens.GetServiceAccountToken(pod.Namespace, pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: audiences, ExpirationSeconds: &k.Seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	})
	if err != nil {
		return "", time.Time{}, err
	}
	ends := tr.Status.ExpirationTimestamp.Time
	life := time.Duration(k.Seconds) * time.Second
	if tr.Spec.ExpirationSeconds != nil {
		life = time.Duration(*tr.Spec.ExpirationSeconds) * time.Second
	}
	at := ends.Add(-life / 5) // the token manager renews at 80 % of its life, or after a day
	if day := ends.Add(24*time.Hour - life); day.Before(at) {
		at = day
	}
	return tr.Status.Token, at.Add(time.Second), nil
}

// quiet is how long what a payload is made from must be at rest before the Machine gets it.
const quiet = time.Second

// refresh brings Config and payload of a running Machine in line with its Pod: a new image is a new version, everything else that can
// change reaches the Machine as files.
func (e *engine) refresh(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	if m.State != gondola.Started && m.State != gondola.Starting {
		return 0, nil
	}
	if cfg := withImages(pod, m.Config); cfg != nil {
		req := gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: *cfg, Name: m.Name, Region: string(m.Region)}, CurrentVersion: m.Version}
		updated, err := e.cfg.Platform.Update(ctx, m.Ref(), req)
		if err != nil {
			return 0, fmt.Errorf("update machine %s of pod %s/%s: %w", m.ID, pod.Namespace, pod.Name, err)
		}
		w.renewed = true
		e.putMachine(&updated)
		return 0, nil
	}
	in, err := e.inputs(ctx, n, pod, driverOf(m))
	if err != nil { // the Machine runs on with what it has
		e.staleFiles(ctx, pod, w, err)
		return 10 * time.Second, nil
	}
	var renew time.Time
	in.Tokens, renew, err = n.podTokens(pod)
	wait := time.Duration(0)
	if !renew.IsZero() {
		wait = max(time.Until(renew), time.Second)
	}
	if err != nil {
		wait = sooner(wait, 10*time.Second)
	}
	e.staleFiles(ctx, pod, w, err)
	payload, missing := translate.Available(pod, in)
	if missing != nil { // it was there: of that the Machine keeps what it has
		wait = sooner(wait, time.Minute)
	}
	d := digest(payload)
	if d == w.payload {
		w.changedAt = time.Time{}
		return wait, nil
	}
	if w.changedAt.IsZero() {
		w.changedAt = time.Now()
	}
	if left := time.Until(w.changedAt.Add(quiet)); left > 0 && w.payload != "" {
		return left, nil
	}
	err = e.cfg.Platform.PutPayload(ctx, m.Ref(), *payload)
	if errors.Is(err, gondola.ErrPrecondition) || errors.Is(err, gondola.ErrUnsupported) {
		return sooner(wait, 5*time.Second), nil
	}
	if err != nil {
		return 0, fmt.Errorf("refresh files of machine %s of pod %s/%s: %w", m.ID, pod.Namespace, pod.Name, err)
	}
	w.payload, w.changedAt = d, time.Time{}
	return wait, nil
}

// staleFiles notes whether what a Pod's files are made from can be had, and says so when it no longer can.
func (e *engine) staleFiles(ctx context.Context, pod *corev1.Pod, w *work, err error) {
	if err != nil && !w.stale && ctx.Err() == nil {
		e.log.Warn("files of a pod cannot be refreshed: trying again", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	w.stale = err != nil
}

// withImages returns the Machine's Config with the Pod's images, nil where they are the same.
func withImages(pod *corev1.Pod, cfg *gondola.Config) *gondola.Config {
	want := map[string]string{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			want[list[i].Name] = list[i].Image
		}
	}
	var out *gondola.Config
	for i, c := range cfg.Containers {
		if image, ok := want[c.Name]; ok && image != c.Image {
			if out == nil {
				copied := *cfg
				copied.Containers = slices.Clone(cfg.Containers)
				out = &copied
			}
			out.Containers[i].Image = image
		}
	}
	return out
}

// digest tells payloads apart without keeping them.
func digest(p *gondola.Payload) string {
	raw, err := json.Marshal(p)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
