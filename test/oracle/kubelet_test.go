package oracle_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	kubeletutil "k8s.io/kubernetes/pkg/kubelet/util"
	"k8s.io/kubernetes/pkg/util/oom"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/emptydir"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/mount-utils"
)

// startKubelet runs a kubelet in this process, as kubemark does, over a runtime in memory: nothing of the host is touched but dir. Its managers of
// probes and statuses are the real ones. A kubelet cannot be ended but with its process.
func startKubelet(ctx context.Context, name string, address netip.Addr, dir string, config *rest.Config, s *stage) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	flags := options.NewKubeletFlags()
	flags.RootDirectory, flags.HostnameOverride, flags.NodeIP = dir, name, address.String()
	flags.MinimumGCAge = metav1.Duration{Duration: 10 * time.Minute} // what ended shows its end for as long as a life
	flags.MaxContainerCount, flags.MaxPerPodContainerCount = 10000, 100
	c, err := options.NewKubeletConfiguration()
	if err != nil {
		return err
	}
	c.EnableServer, c.RegisterNode, c.CgroupsPerQOS, c.EnforceNodeAllocatable = false, true, false, nil
	c.EvictionHard, c.LocalStorageCapacityIsolation = map[string]string{}, false
	c.FailCgroupV1, c.ResolverConfig, c.MakeIPTablesUtilChains = false, "", false
	c.EnableControllerAttachDetach = false
	c.MaxPods = 1000
	c.PodLogsDir = filepath.Join(dir, "logs")
	deps := &kubelet.Dependencies{
		KubeClient: client, HeartbeatClient: client,
		RemoteRuntimeService: newScripted(s), RemoteImageService: images{},
		CAdvisorInterface: machine{&cadvisortest.Fake{NodeName: name}}, ContainerManager: cgroups{cm.NewStubContainerManager()},
		OSInterface: files{dir: dir}, VolumePlugins: []volume.VolumePlugin(emptydir.ProbeVolumePlugins()),
		OOMAdjuster: oom.NewFakeOOMAdjuster(), Mounter: &mount.FakeMounter{}, Subpather: &subpath.FakeSubpath{}, HostUtil: hostutil.NewFakeHostUtil(nil),
		PodStartupLatencyTracker: kubeletutil.NewPodStartupLatencyTracker(), NodeStartupLatencyTracker: kubeletutil.NewNodeStartupLatencyTracker(),
		TracerProvider: noop.NewTracerProvider(), Recorder: &record.FakeRecorder{}, // with another one it reads the kernel's log
	}
	return kubeletapp.RunKubelet(ctx, &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *c}, deps)
}

// machine has room for all lives at once.
type machine struct{ *cadvisortest.Fake }

func (m machine) MachineInfo() (*cadvisorapi.MachineInfo, error) {
	info, err := m.Fake.MachineInfo()
	info.NumCores, info.MemoryCapacity = 1000, 1<<40
	return info, err
}

// files are the host's below dir; what a kubelet would write elsewhere (links to logs in /var/log) it does not.
type files struct {
	kubecontainer.RealOS
	dir string
}

func (f files) Symlink(_, _ string) error { return nil }

func (f files) MkdirAll(path string, mode os.FileMode) error {
	if !strings.HasPrefix(path, f.dir) {
		return nil
	}
	return os.MkdirAll(path, mode)
}

func (f files) Remove(path string) error {
	if !strings.HasPrefix(path, f.dir) {
		return nil
	}
	return os.Remove(path)
}

func (f files) RemoveAll(path string) error {
	if !strings.HasPrefix(path, f.dir) {
		return fmt.Errorf("%s is not the kubelet's", path)
	}
	return os.RemoveAll(path)
}

// cgroups are none, but a Pod's reads back as what a kubelet writes into it: it reports that.
type cgroups struct{ cm.ContainerManager }

func (c cgroups) NewPodContainerManager() cm.PodContainerManager {
	return podCgroups{c.ContainerManager.NewPodContainerManager()}
}

type podCgroups struct{ cm.PodContainerManager }

func (podCgroups) GetPodCgroupConfig(pod *corev1.Pod, _ corev1.ResourceName) (*cm.ResourceConfig, error) {
	c := cm.ResourceConfigForPod(pod, true, 100_000, false, "")
	if c.CPUQuota == nil {
		c.CPUQuota, c.CPUPeriod = new(int64(-1)), new(uint64(100_000))
	}
	if c.Memory == nil {
		c.Memory = new(int64(-1))
	}
	return c, nil
}
