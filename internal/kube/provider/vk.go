package provider

import (
	"context"
	"errors"
	"io"
	"time"

	dto "github.com/prometheus/client_model/go"
	vkerrors "github.com/virtual-kubelet/virtual-kubelet/errdefs"
	"github.com/virtual-kubelet/virtual-kubelet/node/api"
	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"gondola"
)

var _ nodeutil.Provider = (*Library)(nil)

// Library is one node of a Provider in the shape that virtual-kubelet's own PodController drives: it only records what is wanted and reads
// what is; the Provider's engine does the work, by UID, in both cases.
type Library struct{ node *node }

// Library returns the node of that name for virtual-kubelet's PodController, nil if there is none. The Provider must run.
func (p *Provider) Library(name string) *Library {
	n, ok := p.engine.nodes[name]
	if !ok {
		return nil
	}
	return &Library{n}
}

// CreatePod records that the Pod is wanted.
func (l *Library) CreatePod(_ context.Context, pod *corev1.Pod) error {
	l.node.engine.putPod(pod.DeepCopy())
	return nil
}

// UpdatePod records the Pod as it is wanted now.
func (l *Library) UpdatePod(_ context.Context, pod *corev1.Pod) error {
	l.node.engine.putPod(pod.DeepCopy())
	return nil
}

// DeletePod looks at a Pod again that is being deleted; the engine stops its Machine. One that is already gone is no error.
func (l *Library) DeletePod(_ context.Context, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		l.node.engine.putPod(pod.DeepCopy())
	} else {
		l.node.engine.losePod(pod)
	}
	return nil
}

// GetPod returns a Pod of the node with its newest status.
func (l *Library) GetPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, _, err := l.node.engine.lookup(l.node.Name, namespace, name, "")
	if pod == nil {
		return nil, notFound(err)
	}
	return pod.DeepCopy(), nil
}

// GetPodStatus returns its newest status.
func (l *Library) GetPodStatus(ctx context.Context, namespace, name string) (*corev1.PodStatus, error) {
	pod, err := l.GetPod(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return &pod.Status, nil
}

// GetPods lists the node's Pods.
func (l *Library) GetPods(context.Context) ([]*corev1.Pod, error) {
	e := l.node.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*corev1.Pod
	for _, t := range e.pods {
		if t.pod != nil && t.pod.Spec.NodeName == l.node.Name {
			out = append(out, t.pod.DeepCopy())
		}
	}
	return out, nil
}

// GetContainerLogs opens a container's log.
func (l *Library) GetContainerLogs(ctx context.Context, namespace, pod, container string, o api.ContainerLogOpts) (io.ReadCloser, error) {
	s, err := l.session(namespace, pod, container)
	if err != nil {
		return nil, err
	}
	opts := gondola.LogOptions{Container: container, Previous: o.Previous, Follow: o.Follow, Timestamps: o.Timestamps, Since: o.SinceTime, LimitBytes: int64(o.LimitBytes)}
	if o.Tail > 0 {
		n := int64(o.Tail)
		opts.Tail = &n
	}
	if o.SinceSeconds > 0 {
		opts.Since = time.Now().Add(-time.Duration(o.SinceSeconds) * time.Second)
	}
	return l.node.engine.cfg.Platform.Logs(ctx, s.ref, opts)
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
	u, err := l.node.engine.usage(ctx, l.node)
	if err != nil {
		return nil, err
	}
	return u.summary(l.node, false), nil
}

// GetMetricsResource returns the same as metrics.
func (l *Library) GetMetricsResource(ctx context.Context) ([]*dto.MetricFamily, error) {
	return l.node.resourceMetrics(ctx), nil
}

func (l *Library) session(namespace, pod, container string) (*session, error) {
	_, m, err := l.node.engine.lookup(l.node.Name, namespace, pod, "")
	if err != nil {
		return nil, notFound(err)
	}
	return &session{platform: l.node.engine.cfg.Platform, ref: m.Ref(), container: container}, nil
}

// notFound gives an error the shape that the library asks for.
func notFound(err error) error {
	if errors.Is(err, gondola.ErrNotFound) {
		return vkerrors.AsNotFound(err)
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
