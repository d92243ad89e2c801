package worker

import (
	"context"
	"io"
	"net/netip"

	"gondola"
)

// Host is what a worker needs done on the machine it runs on; internal/host does it for real, driver/fake in memory. All methods are
// idempotent; steps that fail half-way are undone or can be done again.
type Host interface {
	// Total is what Machines may use of this host, overhead of the platform taken off.
	Total() gondola.Resources
	// IPs are the host's own addresses as Machines see them, IPv4 first: a Pod's hostIPs.
	IPs() []netip.Addr
	// Stats is how the host does now; cheap. Info is what it is, without Runtime, MaxMachines and Pressure, which are the worker's to say.
	Stats() gondola.HostStats
	Info() gondola.HostInfo

	// EnsureImage makes the image available and returns it. policy is "always", "if_not_present" or "never". Errors are gondola.ErrImage
	// (does not exist, is none, no access: message for the user) or gondola.ErrUnavailable (registry does not answer).
	EnsureImage(ctx context.Context, reference, policy string, credentials []gondola.RegistryCredential) (Image, error)
	// CachedImage says whether the image is there without asking a registry.
	CachedImage(reference string) bool
	ImportImage(ctx context.Context, archive io.Reader, reference string) ([]gondola.ImageInfo, error)
	ListImages(ctx context.Context) ([]gondola.ImageInfo, error)
	// PruneImages removes images whose digest inUse does not have.
	PruneImages(ctx context.Context, inUse map[string]bool) (freedBytes int64, err error)
	// Pins are those of all workers of this host.
	Pins() *Pins

	// Prepare makes what a Machine needs beside its images: directories, tmpfs, network namespace with its addresses. With fresh the network is made anew (after a sandbox, which strips it);
	// otherwise what is there is kept.
	Prepare(ctx context.Context, m HostMachine, fresh bool) (Prepared, error)
	// Addresses are those that Prepare gives a Machine, IPv4 first, known before it has begun. Of one with HostNetwork, whose gateway has them, and of one
	// that Prepare would refuse there are none.
	Addresses(m HostMachine) []netip.Addr
	// Keep puts back what the host's firewall has lost of a Machine whose sandbox runs, because somebody emptied it. Nothing else of Prepare is
	// done, and nothing that is there is made anew.
	Keep(ctx context.Context, m HostMachine) error
	// Release undoes Prepare: network, mounts and, with disk, the Machine's directory.
	Release(ctx context.Context, id gondola.MachineID, disk bool) error
	// Leftovers lists the Machines of this worker for which something is on the host, for the collection of what a crash left.
	Leftovers(ctx context.Context) ([]gondola.MachineID, error)

	// SetServices programs the virtual services of a network.
	SetServices(ctx context.Context, network string, services []gondola.VirtualService) error
	// SetPolicies programs an owner's policies of a network and keeps them over a reboot.
	SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error
	// Describe says by what policies select a Machine: before its first Prepare, and whenever that changes. It is known until Release with
	// disk, or the end of the process.
	Describe(ctx context.Context, m gondola.PolicySubject) error

	VolumeHost
	// Entrance tells where the world can come in.
	Entrance() (gondola.Entrance, error)
	// CheckAppService says whether an App, which is the service's name, could open its ports to the world: ErrConflict names who has one.
	CheckAppService(network string, s gondola.VirtualService) error
	// Gateway returns the addresses of a gateway of a network, IPv4 first; none if it is not on this host.
	Gateway(network, name string) []netip.Addr
}

// Image is an unpacked image.
type Image struct {
	Reference string // as asked for
	ID        string // "name@sha256:…"
	Digest    string // "sha256:…", of the config or manifest: the name of the tree
	Tree      string // directory, read-only
	SizeBytes int64

	Entrypoint, Cmd, Env []string
	WorkingDir, User     string
	StopSignal           string

	Config []byte // the OCI config that says all this, as the registry has it
}

// HostMachine is what a Host needs to know of a Machine.
type HostMachine struct {
	ID        gondola.MachineID
	Number    uint16 // within its worker, from 1: the basis of its addresses
	Network   string // name; Machines of different networks cannot reach each other
	NetworkID uint32

	Gateway     string // of its network; if empty, it uses none
	HostNetwork bool   // the gateway's network is its own
	Ports       []gondola.HostPort
	Paths       []HostPath
}

// HostPath is a volume that is a path of the gateway's files. One that is not what it has to be is an ErrPrecondition of Prepare.
type HostPath struct{ Volume, Path, Type string }

// Prepared is what came of Prepare.
type Prepared struct {
	NetNS               string       // path
	Addresses           []netip.Addr // IPv4 first, then 6PN
	Dir, RunDir, Socket string       // as in pilot.Spec
	Cgroup              string
	API                 string // as in pilot.Spec

	Paths map[string]string // volume → where its path is held on the host
	Hosts string            // with HostNetwork: what the gateway has as /etc/hosts
}
