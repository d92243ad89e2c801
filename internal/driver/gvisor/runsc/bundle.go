package runsc

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// pauseSpec describes the sandbox's root. It alone carries the limits: they are the whole Machine's.
func (r *Runtime) pauseSpec(root, image string) *specs.Spec {
	spec := r.baseSpec(root)
	spec.Annotations["dev.gvisor.spec.rootfs.source"] = image
	spec.Annotations["dev.gvisor.spec.rootfs.type"] = "erofs"
	spec.Mounts = nil
	spec.Annotations["io.kubernetes.cri.container-type"] = "sandbox"
	spec.Root.Readonly = true
	spec.Process = &specs.Process{Args: []string{pauseProgram}, Cwd: "/", Env: []string{"PATH=/"}, Rlimits: oci.Rlimits(), NoNewPrivileges: true}
	limitProcesses(spec.Process, r.spec.Processes) // commands that are run in containers get the root's
	if r.spec.NetNS != "" || r.warm != nil {       // a warm one's is a new one; to be restored elsewhere it has to have it in its bundle as well
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: r.spec.NetNS})
	}
	r.guestLimits(spec)
	if r.spec.Cgroup != "" {
		spec.Linux.CgroupsPath = "/" + r.sandboxCgroup()
		spec.Linux.Resources = oci.MachineResources(r.spec.Limits, cgroup.Host().CountsSwap())
		if n := hostProcesses(r.spec.Processes); n > 0 {
			spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: n}
		}
	}
	return spec
}

// containerSpec describes a run of a container in the sandbox.
func (r *Runtime) containerSpec(run pilot.Run, root string) (*specs.Spec, error) {
	spec := r.baseSpec(root)
	if !r.spec.ShareProc {
		pids, err := r.processNamespace(run)
		if err != nil {
			return nil, err
		}
		spec.Linux.Namespaces = []specs.LinuxNamespace{pids}
	}
	spec.Annotations["io.kubernetes.cri.container-type"] = "container"
	spec.Annotations["io.kubernetes.cri.sandbox-id"] = r.id(oci.PauseName)
	spec.Annotations["io.kubernetes.cri.container-name"] = run.Container.Name
	spec.Root.Readonly = oci.Security(run.Container).ReadOnlyRootfs
	spec.Process = oci.Process(run)
	spec.Process.OOMScoreAdj = oci.OOMScore(r.spec)
	limitProcesses(spec.Process, r.spec.Processes)
	guestCgroup(spec, r.controllers(run.Container.Name))
	for _, m := range run.Mounts {
		spec.Mounts = append(spec.Mounts, r.volumes.Mount(m))
	}
	return spec, nil
}

// processNamespace is the PID namespace of a run: its own, or that of the container that it targets. To the sandbox the path is but a name:
// a second container that gives the name of one that is there joins it.
func (r *Runtime) processNamespace(run pilot.Run) (specs.LinuxNamespace, error) {
	own := specs.LinuxNamespace{Type: specs.PIDNamespace, Path: fmt.Sprintf("/gondola/%s/%d", run.Container.Name, run.Attempt)}
	if run.Container.Config.Gondola == nil || run.Container.Config.Gondola.Target == "" {
		return own, nil
	}
	target := run.Container.Config.Gondola.Target
	p, err := r.running(target)
	if err != nil {
		return own, gondola.Errorf(gondola.ErrPrecondition, "unable to find target container %s: %w", target, err)
	}
	for _, ns := range p.c.Spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace && ns.Path != "" {
			return ns, nil
		}
	}
	return own, gondola.Errorf(gondola.ErrUnsupported, "container %s was started by an older gondola-pilot: its processes can be shared after its next start", target)
}

// baseSpec is what root and containers have in common.
func (r *Runtime) baseSpec(root string) *specs.Spec {
	spec := &specs.Spec{
		Version:     "1.1.0",
		Root:        &specs.Root{Path: root},
		Hostname:    r.spec.Hostname,
		Annotations: annotations(r.volumes),
		Mounts:      oci.StandardMounts(shmSource),
		Linux:       &specs.Linux{},
	}
	// IPC, UTS and network belong to the sandbox. Without a PID namespace of its own a container is in the sandbox's.
	return spec
}
