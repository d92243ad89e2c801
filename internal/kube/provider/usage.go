package provider

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"gondola"
	"gondola/internal/kube/translate"
)

// podUsage is what one Pod of this cluster uses.
type podUsage struct {
	pod *corev1.Pod
	gondola.MachineStats
}

// nodeUsage is what a node and its Pods use: all Machines of its region, of whatever cluster or none, since they take what Pods could have.
// Several nodes of one region share it evenly, as they do its capacity.
type nodeUsage struct {
	time    time.Time
	window  time.Duration
	cpu     gondola.CPUStats
	memory  gondola.MemoryStats
	network gondola.NetworkStats
	workers []gondola.WorkerStats
	pods    []podUsage
}

// usage asks the platform what the Machines of a node's region use. Workers keep their answer for a few seconds.
func (e *engine) usage(ctx context.Context, n *node) (nodeUsage, error) {
	workers, err := e.cfg.Platform.Stats(ctx, gondola.StatsRequest{Region: n.Region})
	if err != nil {
		return nodeUsage{}, err
	}
	u := nodeUsage{time: time.Now(), window: time.Second, workers: workers}
	share := e.share(n.Region)
	for _, w := range workers {
		for _, m := range w.Machines {
			u.cpu.UsageNanos += m.CPU.UsageNanos / share
			u.cpu.RateNanos += m.CPU.RateNanos / share
			u.memory.Usage += m.Memory.Usage / share
			u.memory.WorkingSet += m.Memory.WorkingSet / share
			u.memory.RSS += m.Memory.RSS / share
			u.network.RxBytes += m.Network.RxBytes / share
			u.network.TxBytes += m.Network.TxBytes / share
			u.window = max(u.window, m.CPU.Window)
			if m.Metadata[translate.MetadataCluster] != e.cfg.Cluster {
				continue
			}
			if pod := e.podOf(types.UID(m.Metadata[translate.MetadataUID])); pod != nil && pod.Spec.NodeName == n.Name {
				u.pods = append(u.pods, podUsage{pod, m})
			}
		}
	}
	return u, nil
}

// podOf returns the newest known Pod of a UID, nil if there is none.
func (e *engine) podOf(uid types.UID) *corev1.Pod {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.pods[uid]; ok {
		return t.pod
	}
	return nil
}

// share is how many nodes share a region.
func (e *engine) share(r gondola.Region) int64 {
	share := int64(0)
	for _, n := range e.nodes {
		if n.Region == r {
			share++
		}
	}
	return max(share, 1)
}

// summary is what a kubelet answers to /stats/summary. With onlyCPUAndMemory the rest is left out.
func (u nodeUsage) summary(n *node, onlyCPUAndMemory bool) *statsapi.Summary {
	out := &statsapi.Summary{Pods: []statsapi.PodStats{}}
	out.Node = statsapi.NodeStats{NodeName: n.Name, StartTime: metav1.NewTime(n.engine.began), CPU: cpuStats(u.time, u.cpu), Memory: memoryStats(u.time, u.memory, 0)}
	if have := n.allocatable(); have != nil {
		limit := have[corev1.ResourceMemory]
		out.Node.Memory = memoryStats(u.time, u.memory, limit.Value())
	}
	if len(u.workers) > 0 && !onlyCPUAndMemory {
		h := u.workers[0].Host
		out.Node.Fs = fsStats(u.time, h.Disk)
		out.Node.Runtime = &statsapi.RuntimeStats{ImageFs: fsStats(u.time, h.Disk), ContainerFs: fsStats(u.time, h.Disk)}
		out.Node.Rlimit = &statsapi.RlimitStats{Time: metav1.NewTime(u.time), MaxPID: &h.MaxPIDs, NumOfRunningProcesses: &h.PIDs}
		out.Node.Network = networkStats(u.time, u.network)
	}
	for i := range u.pods {
		out.Pods = append(out.Pods, u.pods[i].stats(onlyCPUAndMemory))
	}
	return out
}

func (p *podUsage) stats(onlyCPUAndMemory bool) statsapi.PodStats {
	at := p.Time
	out := statsapi.PodStats{
		PodRef:    statsapi.PodReference{Name: p.pod.Name, Namespace: p.pod.Namespace, UID: string(p.pod.UID)},
		StartTime: metav1.NewTime(p.StartedAt), Containers: []statsapi.ContainerStats{},
		CPU: cpuStats(at, p.CPU), Memory: memoryStats(at, p.Memory, 0),
	}
	limits := memoryLimits(p.pod)
	for _, c := range p.Containers {
		s := statsapi.ContainerStats{Name: c.Name, StartTime: metav1.NewTime(c.StartedAt), CPU: cpuStats(at, c.CPU), Memory: memoryStats(at, c.Memory, limits[c.Name])}
		if !onlyCPUAndMemory {
			s.Rootfs, s.Logs = fsStats(at, c.Rootfs), fsStats(at, c.Logs)
		}
		out.Containers = append(out.Containers, s)
	}
	if onlyCPUAndMemory {
		return out
	}
	out.Network = networkStats(at, p.Network)
	out.ProcessStats = &statsapi.ProcessStats{ProcessCount: count(p.Processes)}
	for _, v := range p.Volumes {
		out.VolumeStats = append(out.VolumeStats, statsapi.VolumeStats{Name: v.Name, FsStats: *fsStats(at, v.Disk)})
	}
	sum := p.Ephemeral()
	if len(p.Containers) > 0 {
		fs := p.Containers[0].Rootfs
		sum.Available, sum.Total, sum.InodesAvailable, sum.InodesTotal = fs.Available, fs.Total, fs.InodesAvailable, fs.InodesTotal
	}
	out.EphemeralStorage = fsStats(at, sum)
	return out
}

func memoryLimits(pod *corev1.Pod) map[string]int64 {
	out := map[string]int64{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			out[list[i].Name] = list[i].Resources.Limits.Memory().Value()
		}
	}
	return out
}

// count is a number as the API of the kubelet has it.
func count(n int64) *uint64 {
	u := uint64(max(n, 0))
	return &u
}

func cpuStats(at time.Time, c gondola.CPUStats) *statsapi.CPUStats {
	out := &statsapi.CPUStats{Time: metav1.NewTime(at), UsageCoreNanoSeconds: count(c.UsageNanos)}
	if c.Window > 0 || c.RateNanos > 0 {
		out.UsageNanoCores = count(c.RateNanos)
	}
	return out
}

func memoryStats(at time.Time, m gondola.MemoryStats, limit int64) *statsapi.MemoryStats {
	out := &statsapi.MemoryStats{Time: metav1.NewTime(at), UsageBytes: count(m.Usage), WorkingSetBytes: count(m.WorkingSet), RSSBytes: count(m.RSS)}
	if limit > 0 {
		out.AvailableBytes = count(limit - m.WorkingSet)
	}
	return out
}

func fsStats(at time.Time, d gondola.DiskStats) *statsapi.FsStats {
	return &statsapi.FsStats{Time: metav1.NewTime(at), AvailableBytes: count(d.Available), CapacityBytes: count(d.Total), UsedBytes: count(d.Used),
		InodesFree: count(d.InodesAvailable), Inodes: count(d.InodesTotal), InodesUsed: count(d.Inodes)}
}

func networkStats(at time.Time, n gondola.NetworkStats) *statsapi.NetworkStats {
	eth0 := statsapi.InterfaceStats{Name: "eth0", RxBytes: count(n.RxBytes), RxErrors: count(n.RxErrors), TxBytes: count(n.TxBytes), TxErrors: count(n.TxErrors)}
	return &statsapi.NetworkStats{Time: metav1.NewTime(at), InterfaceStats: eth0, Interfaces: []statsapi.InterfaceStats{eth0}}
}
