// Package host implements worker.Host on a real machine: images, directories, tmpfs, networks and what is left of them after a crash.
//
// Everything of one Machine has a place that follows from its id, so that it is found again by whoever comes later, with or without a
// record: <data>/machines/<id> with the name of its worker in the file "worker", a tmpfs on run/ below it, a socket
// /run/gondola/<instance>/<id>.sock, the cgroup gondola/<instance>/<id> (made by the driver) and its network (made by internal/network).
// The package knows no Machine's life: it makes and unmakes when told to.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/image"
	"gondola/internal/network"
	"gondola/internal/volume"
	"gondola/internal/worker"

	"gondola/internal/driver"
)

// Network is what a Host needs of internal/network.
type Network interface {
	Attach(ctx context.Context, m network.Machine, fresh bool) (network.Attached, error)
	Keep(ctx context.Context, m network.Machine) error
	Detach(ctx context.Context, id gondola.MachineID) error
	Attached() ([]gondola.MachineID, error)
	SetServices(ctx context.Context, network string, services []gondola.VirtualService) error
	SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error
	Describe(ctx context.Context, m gondola.PolicySubject) error
	Forget(id gondola.MachineID)
	SetAppServices(ctx context.Context, services map[string][]gondola.VirtualService) error
	CheckAppService(network string, s gondola.VirtualService) error
	Entrance() (gondola.Entrance, error)
	Addresses(m network.Machine) []netip.Addr
	GatewayAddresses(network, name string) []netip.Addr
}

// Config says what a Host works with.
type Config struct {
	DataDir  string // of the installation. Required.
	Instance string // of the installation. Required.
	Images   *image.Store
	Network  Network
	Reserve  gondola.Resources // what Machines may not have; without memory, 512 MB or 5 % of it, whichever is more
	RunRoot  string            // where directories of sockets are made; if empty, /run/gondola
	Log      *slog.Logger      // If nil, slog.Default().
}

// Host is this machine, as all workers of a process share it.
type Host struct {
	places  places
	images  *image.Store
	network Network
	volumes *volume.Store
	pins    worker.Pins
	reserve gondola.Resources
	log     *slog.Logger
}

// Open prepares the places that Machines share.
func Open(cfg Config) (*Host, error) {
	p, err := newPlaces(cfg.DataDir, cfg.Instance, cfg.RunRoot)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{p.machines, p.sockets} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open host: %w", err)
		}
	}
	if err := p.removeUnfinished(); err != nil {
		return nil, fmt.Errorf("open host: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	volumes, err := volume.Open(volume.Config{Dir: filepath.Join(p.data, "volumes"), Log: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("open host: %w", err)
	}
	return &Host{places: p, volumes: volumes, images: cfg.Images, network: cfg.Network, reserve: cfg.Reserve, log: cfg.Log}, nil
}

// Total is what all Machines of this host together may use.
func (h *Host) Total() gondola.Resources { return total(h.reserve) }

// API is the socket on which the daemon is to take what pilots bring of their Machines. Its directory is root's alone.
func (h *Host) API() string { return h.places.api() }

// WarmDir is where sandboxes that stand ready for no Machine yet have their things.
func (h *Host) WarmDir() string { return filepath.Join(h.places.sockets, "warm") }

// ForWorker returns the Host of one worker. share is its part of Total, zero for all of it; ips are the host's addresses as its Machines
// see them, IPv4 first.
func (h *Host) ForWorker(name string, number uint16, share gondola.Resources, ips ...netip.Addr) *WorkerHost {
	return &WorkerHost{Host: h, name: name, number: number, share: share, ips: ips}
}

// WorkerHost is a worker's view of a Host. It implements worker.Host.
type WorkerHost struct {
	*Host
	name   string
	number uint16
	share  gondola.Resources
	ips    []netip.Addr
}

var _ worker.Host = (*WorkerHost)(nil)

// Total implements worker.Host.
func (w *WorkerHost) Total() gondola.Resources {
	if w.share != (gondola.Resources{}) {
		return w.share
	}
	return w.Host.Total()
}

// IPs implements worker.Host.
func (w *WorkerHost) IPs() []netip.Addr { return w.ips }

// EnsureImage implements worker.Host.
func (w *WorkerHost) EnsureImage(ctx context.Context, reference, policy string, credentials []gondola.RegistryCredential) (worker.Image, error) {
	img, err := w.images.Ensure(ctx, reference, image.Policy(policy), credentials)
	if err != nil {
		return worker.Image{}, err
	}
	return worker.Image{
		Reference: img.Reference, ID: img.ID, Digest: img.Digest, Tree: img.Tree, SizeBytes: img.SizeBytes,
		Entrypoint: img.Entrypoint, Cmd: img.Cmd, Env: img.Env,
		WorkingDir: img.WorkingDir, User: img.User, StopSignal: img.StopSignal, Config: img.Config,
	}, nil
}

// CachedImage implements worker.Host.
func (w *WorkerHost) CachedImage(reference string) bool { return w.images.Cached(reference) }

// ImportImage implements worker.Host.
func (w *WorkerHost) ImportImage(ctx context.Context, archive io.Reader, reference string) ([]gondola.ImageInfo, error) {
	return w.images.Import(ctx, archive, reference)
}

// ListImages implements worker.Host.
func (w *WorkerHost) ListImages(ctx context.Context) ([]gondola.ImageInfo, error) {
	return w.images.List(ctx)
}

// PruneImages implements worker.Host. Workers of a host share its images, so those of every Machine that was launched here stay, whoever's.
func (w *WorkerHost) PruneImages(ctx context.Context, inUse map[string]bool) (int64, error) {
	all, err := w.places.launchedImages()
	if err != nil {
		return 0, err
	}
	maps.Copy(all, inUse)
	return w.images.Prune(ctx, all)
}

// Pins implements worker.Host.
func (h *Host) Pins() *worker.Pins { return &h.pins }

// SetServices implements worker.Host.
func (w *WorkerHost) SetServices(ctx context.Context, network string, services []gondola.VirtualService) error {
	return w.network.SetServices(ctx, network, services)
}

// SetPolicies implements worker.Host.
func (w *WorkerHost) SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error {
	return w.network.SetPolicies(ctx, network, owner, set)
}

// Describe implements worker.Host.
func (w *WorkerHost) Describe(ctx context.Context, m gondola.PolicySubject) error {
	return w.network.Describe(ctx, m)
}

// Entrance implements worker.Host.
func (w *WorkerHost) Entrance() (gondola.Entrance, error) { return w.network.Entrance() }

// CheckAppService implements worker.Host.
func (w *WorkerHost) CheckAppService(network string, s gondola.VirtualService) error {
	return w.network.CheckAppService(network, s)
}

// Prepare implements worker.Host. What a Prepare that fails has made is undone; what was there before stays.
func (w *WorkerHost) Prepare(ctx context.Context, m worker.HostMachine, fresh bool) (_ worker.Prepared, err error) {
	if err := checkID(m.ID); err != nil {
		return worker.Prepared{}, err
	}
	var undo undo
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("prepare machine %s: %w", m.ID, err), undo.run())
		}
	}()
	p := w.places
	made, err := p.ensureMachineDir(m.ID, w.name)
	if err != nil {
		return worker.Prepared{}, err
	}
	if made {
		undo.add(func() error { return os.RemoveAll(p.dir(m.ID)) })
	}
	failpoint.Hit("host.prepare.directory")
	mounted, err := ensureTmpfs(p.runDir(m.ID))
	failpoint.Hit("host.prepare.tmpfs")
	if err != nil {
		return worker.Prepared{}, err
	}
	if mounted {
		undo.add(func() error { return driver.UnmountBelow(p.runDir(m.ID)) })
	}
	// The directory of sockets is on a tmpfs that a reboot, or somebody's cleaning, empties.
	if err := os.MkdirAll(p.sockets, 0o700); err != nil {
		return worker.Prepared{}, err
	}
	paths, err := w.holdPaths(m)
	if err != nil {
		return worker.Prepared{}, err
	}
	a, err := w.network.Attach(ctx, w.wired(m), fresh)
	if err != nil {
		return worker.Prepared{}, err
	}
	failpoint.Hit("host.prepare.network")
	hosts := ""
	if m.HostNetwork {
		if hosts, err = w.hostsFile(ctx, m); err != nil {
			return worker.Prepared{}, err
		}
	}
	return worker.Prepared{
		NetNS: a.NetNS, Addresses: a.Addresses, Paths: paths, Hosts: hosts,
		Dir: p.dir(m.ID), RunDir: p.runDir(m.ID), Socket: p.socket(m.ID), Cgroup: p.cgroup(m.ID), API: p.api(),
	}, nil
}

// Addresses implements worker.Host.
func (w *WorkerHost) Addresses(m worker.HostMachine) []netip.Addr {
	return w.network.Addresses(w.wired(m))
}

// wired is a Machine as the network knows it.
func (w *WorkerHost) wired(m worker.HostMachine) network.Machine {
	return network.Machine{ID: m.ID, Worker: w.number, Number: m.Number, Network: m.Network, NetworkID: m.NetworkID,
		Gateway: m.Gateway, HostNetwork: m.HostNetwork, Ports: m.Ports}
}

// Keep implements worker.Host.
func (w *WorkerHost) Keep(ctx context.Context, m worker.HostMachine) error {
	if err := checkID(m.ID); err != nil {
		return err
	}
	return w.network.Keep(ctx, w.wired(m))
}

// Release implements worker.Host. It goes on after an error, so that one thing that cannot be undone keeps no other.
func (w *WorkerHost) Release(ctx context.Context, id gondola.MachineID, disk bool) error {
	if err := checkID(id); err != nil {
		return err
	}
	p := w.places
	failpoint.Hit("host.release.begun")
	errs := []error{
		driver.UnmountBelow(p.dir(id)),
		w.network.Detach(ctx, id),
		p.removeSocket(id),
		removeCgroup(ctx, p.cgroup(id), false),
	}
	if disk {
		w.network.Forget(id)
	}
	failpoint.Hit("host.release.undone")
	if disk && errs[0] == nil { // never into a mount
		errs = append(errs, p.removeMachineDir(id))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("release machine %s: %w", id, err)
	}
	return nil
}

// Leftovers implements worker.Host. Things that tell no worker, left where a crash came between, are on every worker's list: whoever
// releases them first has done it.
func (w *WorkerHost) Leftovers(context.Context) ([]gondola.MachineID, error) {
	attached, err := w.network.Attached()
	if err != nil {
		return nil, fmt.Errorf("list what is on this host: %w", err)
	}
	ids, err := w.places.leftovers(w.name, attached)
	if err != nil {
		return nil, fmt.Errorf("list what is on this host: %w", err)
	}
	return ids, nil
}

// undo collects how to take back what was done.
type undo struct{ steps []func() error }

func (u *undo) add(step func() error) { u.steps = append(u.steps, step) }

// run takes everything back, the last first.
func (u *undo) run() error {
	var errs []error
	for i := len(u.steps) - 1; i >= 0; i-- {
		errs = append(errs, u.steps[i]())
	}
	return errors.Join(errs...)
}

// Purge removes everything of an instance from this machine, with no daemon and no Machine running: mounts below dataDir, sockets, cgroups
// (processes in them are killed), the directories of Machines, the images and the volumes. Its networks are for network.Purge. The rest of dataDir is
// the caller's.
func Purge(ctx context.Context, dataDir, instance string) error {
	p, err := newPlaces(dataDir, instance, "")
	if err != nil {
		return err
	}
	if err := EndAll(ctx, instance); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	if err := volume.Purge(filepath.Join(p.data, "volumes")); err != nil { // a frozen one would not let go
		return fmt.Errorf("purge: %w", err)
	}
	entries, err := os.ReadDir(p.data)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("purge: %w", err)
	}
	for _, e := range entries { // not the directory itself, which may be a disk of its own
		if err := driver.UnmountBelow(filepath.Join(p.data, e.Name())); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
	}
	err = errors.Join(os.RemoveAll(p.machines), os.RemoveAll(filepath.Join(p.data, "images")), os.RemoveAll(filepath.Join(p.data, "volumes")),
		os.RemoveAll(filepath.Join(p.data, "gateways")))
	if err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	// Shared with other instances: gone only if they are.
	_ = os.Remove(filepath.Dir(p.sockets))
	removeEmptyCgroup("gondola")
	return nil
}

// EndAll kills every process of an instance and removes its cgroups and sockets, wherever its data are or were.
func EndAll(ctx context.Context, instance string) error {
	p, err := newPlaces("/", instance, "")
	if err != nil {
		return err
	}
	if err := removeCgroup(ctx, filepath.Join("gondola", instance), true); err != nil {
		return err
	}
	return errors.Join(driver.UnmountBelow(p.sockets), os.RemoveAll(p.sockets))
}

// Present says whether anything of an instance runs, or has run since the last reboot, on this machine: its sockets or its cgroups are there.
func Present(instance string) bool {
	p, err := newPlaces("/", instance, "")
	if err != nil {
		return false
	}
	_, err = os.Stat(p.sockets)
	return err == nil || len(cgroupDirs(filepath.Join("gondola", instance))) > 0
}
