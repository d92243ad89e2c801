package fake

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gondola"
	"gondola/internal/worker"
)

// HostConfig describes the host that a Host pretends to be.
type HostConfig struct {
	Dir    string            // below which Machines have their directories; needed
	Total  gondola.Resources // If zero, 8 CPUs and 16 GB.
	Worker uint16            // number of the worker, from 1: the basis of addresses. If zero, 1.
	Disk   int64             // bytes for Volumes; if zero, 1 TiB
	API    string            // as in pilot.Spec; if empty, Machines have no /.fly/api
	// Images are those that exist, by reference. Beside them every reference that begins with "gondola.local/" or "test/" is an image
	// whose program is drivertest/program.
	Images map[string]worker.Image
}

// Host is a worker.Host in memory, with directories below HostConfig.Dir.
type Host struct {
	cfg  HostConfig
	pins worker.Pins

	mu       sync.Mutex
	cached   map[string]worker.Image
	used     map[string]time.Time // reference → when it was last asked for
	machines map[gondola.MachineID]bool
	mounted  map[gondola.VolumeID]bool
	fail     func(step string, id gondola.MachineID) error
	services map[string][]gondola.VirtualService
	stats    gondola.HostStats            // if its Time is zero, all is well
	policies map[string]gondola.PolicySet // network/owner → its policies
	subjects map[gondola.MachineID]gondola.PolicySubject
}

var _ worker.Host = (*Host)(nil)

// NewHost returns a Host. One over the Dir of an earlier one knows its Machines again, as after a restart.
func NewHost(cfg HostConfig) *Host {
	if cfg.Total == (gondola.Resources{}) {
		cfg.Total = gondola.Resources{CPUMillis: 8000, MemoryBytes: 16 << 30}
	}
	if cfg.Worker == 0 {
		cfg.Worker = 1
	}
	h := &Host{cfg: cfg, cached: map[string]worker.Image{}, used: map[string]time.Time{}, machines: map[gondola.MachineID]bool{}, mounted: map[gondola.VolumeID]bool{},
		services: map[string][]gondola.VirtualService{}, policies: map[string]gondola.PolicySet{}, subjects: map[gondola.MachineID]gondola.PolicySubject{}}
	entries, _ := os.ReadDir(filepath.Join(cfg.Dir, "machines")) // none yet is fine
	for _, e := range entries {
		h.machines[gondola.MachineID(e.Name())] = true
	}
	return h
}

// FailOn makes every later step ("EnsureImage", "Prepare", "Keep", "Release", or a method of worker.VolumeHost) fail with what f returns; a nil f ends that. id is empty for images and a Volume's where it is about one.
func (h *Host) FailOn(f func(step string, id gondola.MachineID) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = f
}

func (h *Host) failed(ctx context.Context, step string, id gondola.MachineID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.mu.Lock()
	f := h.fail
	h.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(step, id)
}

// Total implements worker.Host.
func (h *Host) Total() gondola.Resources { return h.cfg.Total }

// Stats implements worker.Host.
func (h *Host) Stats() gondola.HostStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.stats
	if out.Time.IsZero() {
		total := h.cfg.Total.MemoryBytes
		out = gondola.HostStats{MemoryTotal: total, MemoryAvailable: total, MaxPIDs: 4 << 20,
			Disk: gondola.DiskStats{Total: 100 << 30, Available: 80 << 30, InodesTotal: 1 << 20, InodesAvailable: 1 << 20}}
	}
	out.Time = time.Now()
	return out
}

// SetStats makes Stats return s from now on.
func (h *Host) SetStats(s gondola.HostStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Time = time.Now()
	h.stats = s
}

// Info implements worker.Host.
func (h *Host) Info() gondola.HostInfo {
	return gondola.HostInfo{Kernel: "0.0.0-fake", OSImage: "Fake", DiskBytes: 100 << 30}
}

// IPs implements worker.Host.
func (h *Host) IPs() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
}

// Gateway implements worker.Host: there is one, named "node", of every network.
func (h *Host) Gateway(_, name string) []netip.Addr {
	if name != "node" {
		return nil
	}
	return h.IPs()
}

// EnsureImage implements worker.Host.
func (h *Host) EnsureImage(ctx context.Context, reference, policy string, _ []gondola.RegistryCredential) (worker.Image, error) {
	if err := h.failed(ctx, "EnsureImage", ""); err != nil {
		return worker.Image{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if img, ok := h.cached[reference]; ok && policy != "always" {
		h.used[reference] = time.Now()
		return img, nil
	}
	if policy == "never" {
		return worker.Image{}, gondola.Errorf(gondola.ErrImage, "image %q is not present with pull policy of Never", reference)
	}
	img, ok := h.cfg.Images[reference]
	switch {
	case ok:
	case strings.HasPrefix(reference, "gondola.local/"), strings.HasPrefix(reference, "test/"):
		img = worker.Image{Entrypoint: []string{"/program"}, Cmd: []string{"run"}, SizeBytes: 1 << 20}
	default:
		return worker.Image{}, gondola.Errorf(gondola.ErrImage, "image %q does not exist", reference)
	}
	sum := sha256.Sum256([]byte(reference))
	img.Reference = reference
	if img.Digest == "" {
		img.Digest = "sha256:" + hex.EncodeToString(sum[:])
	}
	if img.ID == "" {
		name, _, _ := strings.Cut(reference, "@")
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			name = name[:i]
		}
		img.ID = name + "@" + img.Digest
	}
	if img.Config == nil {
		img.Config = []byte(fmt.Sprintf(`{"os":"linux","config":{"Labels":{"org.opencontainers.image.ref.name":%q}}}`, reference))
	}
	if img.Tree == "" {
		img.Tree = filepath.Join(h.cfg.Dir, "images", strings.TrimPrefix(img.Digest, "sha256:")) // empty, and another for each image
		if err := os.MkdirAll(img.Tree, 0o700); err != nil {
			return worker.Image{}, err
		}
	}
	h.cached[reference], h.used[reference] = img, time.Now()
	return img, nil
}

// CachedImage implements worker.Host.
func (h *Host) CachedImage(reference string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.cached[reference]
	return ok
}

// ImportImage implements worker.Host: whatever the archive holds becomes an image with the default program.
func (h *Host) ImportImage(ctx context.Context, archive io.Reader, reference string) ([]gondola.ImageInfo, error) {
	n, err := io.Copy(io.Discard, archive)
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	if reference == "" {
		return nil, gondola.Errorf(gondola.ErrInvalid, "import image: the archive names none; pass a reference")
	}
	h.mu.Lock()
	if h.cfg.Images == nil {
		h.cfg.Images = map[string]worker.Image{}
	}
	h.cfg.Images[reference] = worker.Image{Entrypoint: []string{"/program"}, Cmd: []string{"run"}, SizeBytes: n}
	h.mu.Unlock()
	img, err := h.EnsureImage(ctx, reference, "always", nil)
	if err != nil {
		return nil, err
	}
	return []gondola.ImageInfo{{Reference: reference, Digest: img.Digest, SizeBytes: n, LastUsed: time.Now()}}, nil
}

// ListImages implements worker.Host.
func (h *Host) ListImages(context.Context) ([]gondola.ImageInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	infos := []gondola.ImageInfo{}
	for ref, img := range h.cached {
		infos = append(infos, gondola.ImageInfo{Reference: ref, Digest: img.Digest, SizeBytes: img.SizeBytes, LastUsed: h.used[ref]})
	}
	slices.SortFunc(infos, func(a, b gondola.ImageInfo) int { return strings.Compare(a.Reference, b.Reference) })
	return infos, nil
}

// PruneImages implements worker.Host.
func (h *Host) PruneImages(_ context.Context, inUse map[string]bool) (freed int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ref, img := range h.cached {
		if !inUse[img.Digest] {
			delete(h.cached, ref)
			freed += img.SizeBytes
		}
	}
	return freed, nil
}

// Pins implements worker.Host.
func (h *Host) Pins() *worker.Pins { return &h.pins }

// Prepare implements worker.Host. Directories are made when they are first written to, but for the Machine's own.
func (h *Host) Prepare(ctx context.Context, m worker.HostMachine, fresh bool) (worker.Prepared, error) {
	if err := h.failed(ctx, "Prepare", m.ID); err != nil {
		return worker.Prepared{}, err
	}
	dir, run := filepath.Join(h.cfg.Dir, "machines", string(m.ID)), filepath.Join(h.cfg.Dir, "run", string(m.ID))
	for _, d := range []string{dir, run} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return worker.Prepared{}, fmt.Errorf("prepare machine %s: %w", m.ID, err)
		}
	}
	h.mu.Lock()
	h.machines[m.ID] = true
	h.mu.Unlock()
	p := worker.Prepared{Dir: dir, RunDir: run, Addresses: h.Addresses(m), API: h.cfg.API, Paths: map[string]string{}}
	if m.HostNetwork {
		p.Addresses = h.IPs()
	}
	for _, path := range m.Paths {
		p.Paths[path.Volume] = filepath.Join(h.cfg.Dir, "gateways", m.Network, m.Gateway, path.Path)
	}
	return p, nil
}

// Keep implements worker.Host.
func (h *Host) Keep(ctx context.Context, m worker.HostMachine) error {
	return h.failed(ctx, "Keep", m.ID)
}

// Addresses implements worker.Host: worker n owns the n-th /20 of 10.64.0.0/10.
func (h *Host) Addresses(m worker.HostMachine) []netip.Addr {
	if m.HostNetwork || m.Number == 0 {
		return nil
	}
	v4 := [4]byte{10, 64, 0, 0}
	binary.BigEndian.PutUint32(v4[:], binary.BigEndian.Uint32(v4[:])+uint32(h.cfg.Worker)<<12+uint32(m.Number))
	v6 := [16]byte{0: 0xfd, 1: 0xaa}
	binary.BigEndian.PutUint32(v6[2:], m.NetworkID)
	binary.BigEndian.PutUint16(v6[6:], h.cfg.Worker)
	binary.BigEndian.PutUint16(v6[14:], m.Number)
	return []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
}

// Release implements worker.Host.
func (h *Host) Release(ctx context.Context, id gondola.MachineID, disk bool) error {
	if err := h.failed(ctx, "Release", id); err != nil {
		return err
	}
	if id == "" || strings.ContainsAny(string(id), "/.") {
		return gondola.Errorf(gondola.ErrInvalid, "machine id %q is none", id)
	}
	if err := os.RemoveAll(filepath.Join(h.cfg.Dir, "run", string(id))); err != nil {
		return fmt.Errorf("release machine %s: %w", id, err)
	}
	if !disk {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(h.cfg.Dir, "machines", string(id))); err != nil {
		return fmt.Errorf("release machine %s: %w", id, err)
	}
	h.mu.Lock()
	delete(h.machines, id)
	h.mu.Unlock()
	return nil
}

// Leftovers implements worker.Host.
func (h *Host) Leftovers(context.Context) ([]gondola.MachineID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := []gondola.MachineID{}
	for id := range h.machines {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// SetServices implements worker.Host.
func (h *Host) SetServices(_ context.Context, network string, services []gondola.VirtualService) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.services[network] = slices.Clone(services)
	return nil
}

// Entrance implements worker.Host: nobody comes in from outside.
func (h *Host) Entrance() (gondola.Entrance, error) {
	return gondola.Entrance{Addresses: h.IPs()}, nil
}

// CheckAppService implements worker.Host.
func (h *Host) CheckAppService(string, gondola.VirtualService) error { return nil }

// Services returns what SetServices was given last for a network.
func (h *Host) Services(network string) []gondola.VirtualService {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.services[network])
}

// SetPolicies implements worker.Host.
func (h *Host) SetPolicies(_ context.Context, network, owner string, set gondola.PolicySet) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.policies[network+"/"+owner] = set
	return nil
}

// Policies returns what SetPolicies was given last for a network by an owner.
func (h *Host) Policies(network, owner string) gondola.PolicySet {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.policies[network+"/"+owner]
}

// Describe implements worker.Host.
func (h *Host) Describe(_ context.Context, m gondola.PolicySubject) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subjects[m.ID] = m
	return nil
}

// Described returns what Describe was given last for a Machine.
func (h *Host) Described(id gondola.MachineID) (gondola.PolicySubject, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.subjects[id]
	return m, ok
}
