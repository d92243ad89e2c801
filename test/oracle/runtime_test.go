package oracle_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"gondola"
)

// scripted is a container runtime in memory: what a kubelet asks of containerd, with containers that are runs of the stage. A method that is not
// written here is one that no life needs, and panics.
type scripted struct {
	cri.RuntimeService
	stage *stage

	mu         sync.Mutex
	made       int
	sandboxes  map[string]*box
	containers map[string]*run
}

type box struct {
	runtimeapi.PodSandboxStatus
	config *runtimeapi.PodSandboxConfig
}

type run struct {
	runtimeapi.ContainerStatus
	config  *runtimeapi.ContainerConfig
	sandbox string
	signals chan gondola.Signal
	killed  chan struct{}
	kill    func()
	over    chan struct{}
}

func newScripted(s *stage) *scripted {
	return &scripted{stage: s, sandboxes: map[string]*box{}, containers: map[string]*run{}}
}

func notFound(id string) error { return status.Errorf(codes.NotFound, "%s not found", id) }

func (r *scripted) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "oracle", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
}

func (r *scripted) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true}}}}, nil
}

func (r *scripted) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{}, nil
}

func (r *scripted) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error { return nil }

func (r *scripted) Close(context.Context) error { return nil }

func (r *scripted) RunPodSandbox(_ context.Context, c *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made++
	id := fmt.Sprintf("box%d", r.made)
	b := &box{config: c, PodSandboxStatus: runtimeapi.PodSandboxStatus{Id: id, Metadata: c.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Now().UnixNano(), Labels: c.Labels, Annotations: c.Annotations,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.98.%d.%d", r.made/250, r.made%250+1)}, Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{}}}}
	if c.Linux != nil && c.Linux.SecurityContext != nil {
		b.Linux.Namespaces.Options = c.Linux.SecurityContext.NamespaceOptions
	}
	r.sandboxes[id] = b
	return id, nil
}

func (r *scripted) StopPodSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.sandboxes[id]
	if b == nil {
		return nil
	}
	for _, c := range r.containers {
		if c.sandbox == id {
			c.kill()
		}
	}
	b.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	return nil
}

func (r *scripted) RemovePodSandbox(ctx context.Context, id string) error {
	if err := r.StopPodSandbox(ctx, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sandboxes, id)
	maps.DeleteFunc(r.containers, func(_ string, c *run) bool { return c.sandbox == id })
	return nil
}

func (r *scripted) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.sandboxes[id]
	if b == nil {
		return nil, notFound(id)
	}
	return &runtimeapi.PodSandboxStatusResponse{Timestamp: time.Now().UnixNano(), Status: &runtimeapi.PodSandboxStatus{Id: b.Id, Metadata: b.Metadata, State: b.State,
		CreatedAt: b.CreatedAt, Labels: b.Labels, Annotations: b.Annotations, Network: b.Network, Linux: b.Linux}}, nil
}

func (r *scripted) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) (out []*runtimeapi.PodSandbox, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.sandboxes {
		if f != nil && (f.Id != "" && f.Id != b.Id || f.State != nil && f.State.State != b.State || !matches(f.LabelSelector, b.Labels)) {
			continue
		}
		out = append(out, &runtimeapi.PodSandbox{Id: b.Id, Metadata: b.Metadata, State: b.State, CreatedAt: b.CreatedAt, Labels: b.Labels, Annotations: b.Annotations})
	}
	slices.SortFunc(out, func(a, b *runtimeapi.PodSandbox) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return out, nil
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (r *scripted) CreateContainer(_ context.Context, sandbox string, c *runtimeapi.ContainerConfig, s *runtimeapi.PodSandboxConfig) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandboxes[sandbox] == nil {
		return "", notFound(sandbox)
	}
	id := fmt.Sprintf("%s/%s/%d", sandbox, c.Metadata.Name, c.Metadata.Attempt)
	if r.containers[id] != nil {
		return "", fmt.Errorf("container %s is there already", id)
	}
	n := &run{config: c, sandbox: sandbox, signals: make(chan gondola.Signal, 8), killed: make(chan struct{}), over: make(chan struct{}),
		ContainerStatus: runtimeapi.ContainerStatus{Id: id, Metadata: c.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
			Image: &runtimeapi.ImageSpec{Image: imageName}, ImageRef: imageID, ImageId: imageID, Labels: c.Labels, Annotations: c.Annotations, Mounts: c.Mounts, LogPath: filepath.Join(s.LogDirectory, c.LogPath)}}
	n.kill = sync.OnceFunc(func() { close(n.killed) })
	r.containers[id] = n
	return id, nil
}

func (r *scripted) StartContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return notFound(id)
	}
	log, err := os.Create(c.LogPath)
	if err != nil {
		return err
	}
	c.State, c.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	go func() {
		defer log.Close()
		code := r.stage.act(partOf(kubelets, append(slices.Clone(c.config.Command), c.config.Args...)),
			world{signals: c.signals, killed: c.killed, out: criLog{log}, last: func(message string) { writeFile(c.terminationLog(), message) }})
		r.mu.Lock()
		defer r.mu.Unlock()
		c.State, c.FinishedAt, c.ExitCode, c.Reason = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), int32(code), "Completed"
		if code != 0 {
			c.Reason = "Error"
		}
		close(c.over)
	}()
	return nil
}

// terminationLog is where on this host the container's termination message goes.
func (c *run) terminationLog() string {
	for _, m := range c.config.Mounts {
		if m.ContainerPath == "/dev/termination-log" {
			return m.HostPath
		}
	}
	return ""
}

// criLog writes lines as runtimes do.
type criLog struct{ w io.Writer }

func (l criLog) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Fprintf(l.w, "%s stdout F %s", time.Now().Format(time.RFC3339Nano), line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (r *scripted) StopContainer(ctx context.Context, id string, timeout int64) error {
	r.mu.Lock()
	c := r.containers[id]
	if c == nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	c.signals <- "SIGTERM"
	timer := time.NewTimer(time.Duration(timeout) * time.Second)
	defer timer.Stop()
	select {
	case <-c.over:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.kill()
	<-c.over
	return nil
}

func (r *scripted) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		c.kill()
	}
	delete(r.containers, id)
	return nil
}

func (r *scripted) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) (out []*runtimeapi.Container, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if f != nil && (f.Id != "" && f.Id != c.Id || f.PodSandboxId != "" && f.PodSandboxId != c.sandbox || f.State != nil && f.State.State != c.State ||
			!matches(f.LabelSelector, c.Labels)) {
			continue
		}
		out = append(out, &runtimeapi.Container{Id: c.Id, PodSandboxId: c.sandbox, Metadata: c.Metadata, Image: c.Image, ImageRef: c.ImageRef, ImageId: c.ImageId,
			State: c.State, CreatedAt: c.CreatedAt, Labels: c.Labels, Annotations: c.Annotations})
	}
	return out, nil
}

func (r *scripted) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, notFound(id)
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt,
		FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Image: c.Image, ImageRef: c.ImageRef, ImageId: c.ImageId, Reason: c.Reason, Labels: c.Labels,
		Annotations: c.Annotations, Mounts: c.Mounts, LogPath: c.LogPath, Resources: &runtimeapi.ContainerResources{Linux: c.config.Linux.GetResources()}}}, nil
}

func (r *scripted) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, error) {
	r.mu.Lock()
	c := r.containers[id]
	ready := c != nil && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	r.mu.Unlock()
	if !ready || !isProbe(cmd) {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "%v in %s, which does not run", cmd, id)
	}
	if code := r.stage.answer(partOf(kubelets, cmd), cmd[3]); code != 0 {
		return nil, nil, utilexec.CodeExitError{Err: fmt.Errorf("command %v exited with %d", cmd, code), Code: code}
	}
	return nil, nil, nil
}

func (r *scripted) UpdateContainerResources(context.Context, string, *runtimeapi.ContainerResources) error {
	return nil
}

func (r *scripted) ReopenContainerLog(context.Context, string) error { return nil }

func (r *scripted) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return nil, nil
}

func (r *scripted) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return nil, nil
}

// images has the one image that there is.
type images struct{ cri.ImageManagerService }

const (
	imageName = "test/actor:1"
	imageID   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func (images) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return nil, nil
}

func (images) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: imageID, RepoTags: []string{spec.Image}, Size: 1, Spec: spec}}, nil
}

func (images) PullImage(context.Context, *runtimeapi.ImageSpec, *runtimeapi.AuthConfig, *runtimeapi.PodSandboxConfig) (string, error) {
	return imageID, nil
}

func (images) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

func (images) Close(context.Context) error { return nil }

// writeFile writes the termination message into a file that is there.
func writeFile(path, text string) {
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		panic(err)
	}
}
