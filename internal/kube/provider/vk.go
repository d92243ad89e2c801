package provider

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	vkerrors "github.com/virtual-kubelet/virtual-kubelet/errdefs"
	vknode "github.com/virtual-kubelet/virtual-kubelet/node"
	"github.com/virtual-kubelet/virtual-kubelet/node/api"
	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"gondola"
	"gondola/internal/kube/translate"
)

var (
	_ nodeutil.Provider   = (*Library)(nil)
	_ vknode.PodNotifier  = (*Library)(nil)
	_ vknode.NodeProvider = (*Library)(nil)
)

// Library is one node of a Provider in the shape that virtual-kubelet's own controllers drive (Config.Foreign). They watch the Pods, keep the Node,
// write statuses and serve the kubelet API; it records what is wanted, tells what is, and the Provider's engine does the work. Everything is keyed
// by UID although the library asks by name: the lister says which Pod a name means now.
type Library struct {
	*node
	pods corelisters.PodLister

	mu      sync.Mutex
	given   map[types.UID]*corev1.Pod // as the controller gave them, with variables that it has resolved, to be compared with
	notices map[types.UID]notice      // of statuses that were sent out
	due     workqueue.TypedInterface[types.UID]
}

// Library returns the node of that name for virtual-kubelet's controllers, whose lister of the node's Pods it reads. It may be called once per
// node and before Run. ErrInvalid where there is no such node or it runs by itself.
func (p *Provider) Library(name string, pods corelisters.PodLister) (*Library, error) {
	n, ok := p.engine.nodes[name]
	switch {
	case !ok:
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: cluster %s has no node %q", p.cfg.Cluster, name)
	case !p.cfg.Foreign:
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: node %s of cluster %s is run by the provider itself: set Foreign", name, p.cfg.Cluster)
	}
	l := &Library{node: n, pods: pods, given: map[types.UID]*corev1.Pod{}, notices: map[types.UID]notice{}, due: workqueue.NewTyped[types.UID]()}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.library != nil {
		return nil, gondola.Errorf(gondola.ErrInvalid, "provider: node %s of cluster %s has its controllers already", name, p.cfg.Cluster)
	}
	n.library, n.object = l, n.build()
	return l, nil
}

// Node returns the Node as it should be registered.
func (l *Library) Node() *corev1.Node { return l.current() }

// CreatePod records that the Pod is wanted.
func (l *Library) CreatePod(_ context.Context, pod *corev1.Pod) error {
	l.want(pod)
	return nil
}

// UpdatePod records the Pod as it is wanted now.
func (l *Library) UpdatePod(_ context.Context, pod *corev1.Pod) error {
	l.want(pod)
	return nil
}

// want hands a Pod to the engine: as it is in the API where the lister has it, so that values of Secrets stay where they belong, which the
// controller may have written into variables.
func (l *Library) want(pod *corev1.Pod) {
	l.mu.Lock()
	l.given[pod.UID] = pod.DeepCopy()
	l.mu.Unlock()
	for _, p := range l.engine.podsNamed(l.Name, pod.Namespace, pod.Name) {
		if p.UID != pod.UID { // made again under one name
			l.lose(p)
		}
	}
	if listed := l.listed(pod.Namespace, pod.Name); listed != nil && listed.UID == pod.UID {
		pod = listed
	}
	l.engine.putPod(pod.DeepCopy())
}

// DeletePod ends a Pod: within its grace period while it is in the API, at once when it is not. One that is already gone is no error.
func (l *Library) DeletePod(_ context.Context, pod *corev1.Pod) error {
	if listed := l.listed(pod.Namespace, pod.Name); listed != nil && listed.UID == pod.UID {
		l.engine.putPod(listed.DeepCopy())
		return nil
	}
	l.lose(pod)
	return nil
}

func (l *Library) lose(pod *corev1.Pod) {
	l.mu.Lock()
	delete(l.given, pod.UID)
	delete(l.notices, pod.UID)
	l.mu.Unlock()
	l.engine.losePod(pod)
}

// listed returns the Pod that has the name now, nil if there is none.
func (l *Library) listed(namespace, name string) *corev1.Pod {
	pod, err := l.pods.Pods(namespace).Get(name)
	if err != nil {
		return nil // a lister knows no other error than that there is none
	}
	return pod
}

// GetPod returns a Pod of the node as the controller gave it, with its newest status.
func (l *Library) GetPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, _, err := l.find(namespace, name)
	if pod == nil {
		return nil, libraryError(err)
	}
	out := pod.DeepCopy()
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.given[pod.UID]; g != nil {
		out = g.DeepCopy()
		out.Status = *pod.Status.DeepCopy()
	}
	return out, nil
}

// find returns the Pod that the name means now, and its Machine.
func (l *Library) find(namespace, name string) (*corev1.Pod, *gondola.Machine, error) {
	uid := ""
	if listed := l.listed(namespace, name); listed != nil {
		uid = string(listed.UID)
	}
	return l.engine.lookup(l.Name, namespace, name, uid)
}

// GetPodStatus returns its newest status.
func (l *Library) GetPodStatus(ctx context.Context, namespace, name string) (*corev1.PodStatus, error) {
	pod, err := l.GetPod(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return &pod.Status, nil
}

// GetPods lists what runs, or is about to: Pods with a Machine that has not ended, and those whose Machine is not made yet. A Machine whose Pod
// nobody has named yet, after a start, is listed by the names that it keeps.
func (l *Library) GetPods(context.Context) ([]*corev1.Pod, error) {
	e := l.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*corev1.Pod
	for uid, t := range e.pods {
		switch {
		case t.pod != nil && t.pod.Spec.NodeName == l.Name:
			if active(t.machine) && t.pod.Status.Phase != corev1.PodSucceeded && t.pod.Status.Phase != corev1.PodFailed {
				out = append(out, t.pod.DeepCopy())
			}
		case t.pod == nil && running(t.machine) && t.machine.Config.Metadata[translate.MetadataNode] == l.Name:
			of := t.machine.Config.Metadata
			out = append(out, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: of[translate.MetadataNamespace], Name: of[translate.MetadataPod], UID: uid},
				Spec: corev1.PodSpec{NodeName: l.Name}})
		}
	}
	return out, nil
}

// active says whether a Machine may still have running containers, or is yet to be made.
func active(m *gondola.Machine) bool {
	if m == nil || m.State == gondola.Created {
		return true
	}
	if !running(m) || m.Gondola == nil || m.State != gondola.Stopping {
		return running(m)
	}
	return slices.ContainsFunc(m.Gondola.Containers, func(c gondola.ContainerStatus) bool { return c.State.Kind == gondola.ContainerRunning })
}

// GetContainerLogs opens a container's log.
func (l *Library) GetContainerLogs(ctx context.Context, namespace, pod, container string, o api.ContainerLogOpts) (io.ReadCloser, error) {
	p, m, err := l.find(namespace, pod)
	if err != nil {
		return nil, libraryError(err)
	}
	st, err := containerStatus(p, m, container)
	if err == nil {
		err = hasLog(p, st, o.Previous)
	}
	if err != nil {
		return nil, libraryError(err)
	}
	opts := gondola.LogOptions{Container: container, Previous: o.Previous, Follow: o.Follow, Timestamps: o.Timestamps, Since: o.SinceTime, LimitBytes: int64(o.LimitBytes)}
	if o.Tail > 0 {
		n := int64(o.Tail)
		opts.Tail = &n
	}
	if o.SinceSeconds > 0 {
		opts.Since = time.Now().Add(-time.Duration(o.SinceSeconds) * time.Second)
	}
	stream, err := l.engine.cfg.Platform.Logs(ctx, m.Ref(), opts)
	return stream, libraryError(err)
}

// RunInContainer runs a command with its streams connected.
func (l *Library) RunInContainer(ctx context.Context, namespace, pod, container string, cmd []string, a api.AttachIO) error {
	s, err := l.session(namespace, pod, container)
	if err != nil {
		return err
	}
	return s.ExecInContainer(ctx, "", "", container, cmd, a.Stdin(), a.Stdout(), a.Stderr(), a.TTY(), sizes(ctx, a), 0)
}

// AttachToContainer connects to a container's own streams.
func (l *Library) AttachToContainer(ctx context.Context, namespace, pod, container string, a api.AttachIO) error {
	s, err := l.session(namespace, pod, container)
	if err != nil {
		return err
	}
	return s.AttachContainer(ctx, "", "", container, a.Stdin(), a.Stdout(), a.Stderr(), a.TTY(), sizes(ctx, a))
}

// PortForward connects a stream to a port in the Pod.
func (l *Library) PortForward(ctx context.Context, namespace, pod string, port int32, stream io.ReadWriteCloser) error {
	s, err := l.session(namespace, pod, "")
	if err != nil {
		return err
	}
	return s.PortForward(ctx, "", "", port, stream)
}

// GetStatsSummary returns what the node's Pods use.
func (l *Library) GetStatsSummary(ctx context.Context) (*statsv1alpha1.Summary, error) {
	u, err := l.engine.usage(ctx, l.node)
	if err != nil {
		return nil, err
	}
	return u.summary(l.node, false), nil
}

// GetMetricsResource returns the same as metrics.
func (l *Library) GetMetricsResource(ctx context.Context) ([]*dto.MetricFamily, error) {
	return l.resourceMetrics(ctx), nil
}

func (l *Library) session(namespace, pod, container string) (*session, error) {
	p, m, err := l.find(namespace, pod)
	if err == nil && container != "" {
		_, err = containerStatus(p, m, container)
	}
	if err != nil {
		return nil, libraryError(err)
	}
	return &session{platform: l.engine.cfg.Platform, ref: m.Ref(), container: container}, nil
}

// libraryError gives an error the shape that the library asks for.
func libraryError(err error) error {
	switch {
	case errors.Is(err, gondola.ErrNotFound):
		return vkerrors.AsNotFound(err)
	case errors.Is(err, gondola.ErrInvalid), errors.Is(err, gondola.ErrPrecondition):
		return vkerrors.AsInvalidInput(err)
	}
	return err
}

func sizes(ctx context.Context, a api.AttachIO) <-chan remotecommand.TerminalSize {
	from := a.Resize()
	if from == nil {
		return nil
	}
	to := make(chan remotecommand.TerminalSize)
	go func() {
		defer close(to)
		for s := range from {
			select {
			case to <- remotecommand.TerminalSize{Width: s.Width, Height: s.Height}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}
