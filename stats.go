package gondola

import (
	"context"
	"time"
)

// Stats tells what Machines use, and how their workers' hosts do.
type Stats interface {
	// Stats returns one entry for each worker that has been asked, with those of its Machines that run and match. Figures are a few seconds
	// old at most; those of a disk may be older the longer it takes to measure. A worker that does not answer is left out; ErrUnavailable
	// where none does.
	Stats(ctx context.Context, req StatsRequest) ([]WorkerStats, error)
}

// StatsRequest narrows a Stats call; zero fields do not.
type StatsRequest struct {
	Region   Region
	Ref      Ref               // of this Machine alone (ID), or of those of this App
	Metadata map[string]string // of Machines with these
	HostOnly bool              // leave the Machines out
}

// WorkerStats is what one worker tells.
type WorkerStats struct {
	Worker   WorkerName     `json:"worker"`
	Region   Region         `json:"region"`
	Host     HostStats      `json:"host"`
	Machines []MachineStats `json:"machines"`
}

// HostStats is the state of a worker's host. Workers of one host tell the same.
type HostStats struct {
	Time            time.Time `json:"time"`
	MemoryTotal     int64     `json:"memory_total"`     // bytes
	MemoryAvailable int64     `json:"memory_available"` // bytes that could be had without swapping
	Disk            DiskStats `json:"disk"`             // of the data directory; Used is what everybody has on it
	PIDs            int64     `json:"pids"`             // processes and threads
	MaxPIDs         int64     `json:"max_pids"`
}

// HostInfo is what a worker's host is, as its Offer tells it; it changes only when pressure comes or goes.
type HostInfo struct {
	Kernel      string   `json:"kernel"`   // release: "6.1.0-18-amd64"
	OSImage     string   `json:"os_image"` // "Debian GNU/Linux 12 (bookworm)"
	Runtime     string   `json:"runtime"`  // what isolates: "gvisor"
	BootID      string   `json:"boot_id"`
	MachineID   string   `json:"machine_id"`
	DiskBytes   int64    `json:"disk_bytes"`   // size of the disk that holds images, root file systems and logs
	MaxMachines int      `json:"max_machines"` // Machines for which the worker has addresses
	Pressure    Pressure `json:"pressure"`
}

// Pressure says what is running out on a host. While the disk is, a worker removes images that no Machine uses.
type Pressure struct {
	Memory bool `json:"memory,omitempty"` // less than MinMemory available
	Disk   bool `json:"disk,omitempty"`   // less than MinDisk available, or less than MinInodes
	PIDs   bool `json:"pids,omitempty"`   // less than MinPIDs free
}

// MinMemory is the available memory, in bytes, below which there is pressure: 100 MiB, as a kubelet has it.
func (h HostStats) MinMemory() int64 { return 100 << 20 }

// MinDisk is the available disk space, in bytes, below which there is pressure: 5 %, at most 2 GiB.
func (h HostStats) MinDisk() int64 { return min(h.Disk.Total/20, 2<<30) }

// MinInodes is how many inodes must be available: 5 %.
func (h HostStats) MinInodes() int64 { return h.Disk.InodesTotal / 20 }

// MinPIDs is how many process ids must be free: 5 %.
func (h HostStats) MinPIDs() int64 { return h.MaxPIDs / 20 }

// Pressure says what is running out. What is not known is not.
func (h HostStats) Pressure() Pressure {
	return Pressure{
		Memory: h.MemoryTotal > 0 && h.MemoryAvailable < h.MinMemory(),
		Disk:   h.Disk.Total > 0 && h.Disk.Available < h.MinDisk() || h.Disk.InodesTotal > 0 && h.Disk.InodesAvailable < h.MinInodes(),
		PIDs:   h.MaxPIDs > 0 && h.MaxPIDs-h.PIDs < h.MinPIDs(),
	}
}

// MachineStats is what one Machine uses.
//
// CPU and Memory are those of the whole sandbox, as the host's cgroup counts them. CPU is attributed to containers whole: what the sandbox
// itself spends is spent for them, and is split in the proportion of their own time; so the containers add up to the Machine. Memory of
// containers is what their processes and files in memory take; what the Machine has beyond their sum is the sandbox itself, for which no
// container's limit pays either. Network belongs to the Machine: containers share it.
type MachineStats struct {
	Ref        Ref               `json:"ref"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Time       time.Time         `json:"time"`
	StartedAt  time.Time         `json:"started_at"` // of the sandbox
	CPU        CPUStats          `json:"cpu"`
	Memory     MemoryStats       `json:"memory"`
	Network    NetworkStats      `json:"network"`
	Processes  int64             `json:"processes"` // threads too, as Linux counts pids
	Containers []ContainerStats  `json:"containers"`
	Volumes    []VolumeStats     `json:"volumes,omitempty"`
}

// ContainerStats is what a running container uses.
type ContainerStats struct {
	Name      string      `json:"name"`
	StartedAt time.Time   `json:"started_at"`
	CPU       CPUStats    `json:"cpu"`
	Memory    MemoryStats `json:"memory"`
	Processes int64       `json:"processes"`
	Rootfs    DiskStats   `json:"rootfs"` // the writable layer, not the image
	Logs      DiskStats   `json:"logs"`   // of the runs whose logs are kept
}

// CPUStats is CPU time used.
type CPUStats struct {
	UsageNanos int64 `json:"usage_nanos"` // since the start; begins again at zero with a new sandbox or run
	// RateNanos is how many nanoseconds were used per second during the last Window: 1e9 is one core. Zero while Window is zero.
	RateNanos int64         `json:"rate_nanos"`
	Window    time.Duration `json:"window"` // ns
}

// MemoryStats is memory in bytes.
type MemoryStats struct {
	Usage      int64 `json:"usage"`       // all that is counted, caches of files too
	WorkingSet int64 `json:"working_set"` // Usage without files that are cached and idle: what cannot be taken away
	RSS        int64 `json:"rss"`         // memory of programs, that of the sandbox's guests included
}

// NetworkStats counts since the sandbox was started, as the Machine sees it.
type NetworkStats struct {
	RxBytes   int64 `json:"rx_bytes"`
	RxPackets int64 `json:"rx_packets"`
	RxErrors  int64 `json:"rx_errors"`
	TxBytes   int64 `json:"tx_bytes"`
	TxPackets int64 `json:"tx_packets"`
	TxErrors  int64 `json:"tx_errors"`
}

// DiskStats is room on a disk. Available and Total are those of the file system.
type DiskStats struct {
	Used            int64 `json:"used"` // bytes
	Inodes          int64 `json:"inodes"`
	Available       int64 `json:"available,omitempty"`
	Total           int64 `json:"total,omitempty"`
	InodesAvailable int64 `json:"inodes_available,omitempty"`
	InodesTotal     int64 `json:"inodes_total,omitempty"`
	// Partial says that there were too many files to look at all of them: it is at least this much.
	Partial bool `json:"partial,omitempty"`
}

// VolumeStats is what a volume of a Machine takes. Volumes in memory, whose size is capped and which count as memory, are not told.
type VolumeStats struct {
	Name string    `json:"name"`
	Disk DiskStats `json:"disk"`
}

// Ephemeral is the disk space that would be given back with the Machine: writable layers, logs and volumes that live as long as it does.
func (m *MachineStats) Ephemeral() DiskStats {
	var sum DiskStats
	add := func(d DiskStats) {
		sum.Used, sum.Inodes, sum.Partial = sum.Used+d.Used, sum.Inodes+d.Inodes, sum.Partial || d.Partial
	}
	for i := range m.Containers {
		add(m.Containers[i].Rootfs)
		add(m.Containers[i].Logs)
	}
	for i := range m.Volumes {
		add(m.Volumes[i].Disk)
	}
	return sum
}
