package worker

import (
	"regexp"
	"slices"
	"strings"

	"gondola"
	"gondola/internal/pilot"
)

// show publishes what the Machine looks like now.
func (m *machine) show() {
	m.seq++
	m.w.hub.publish(m.w.cfg.Name, m.view())
}

// view is the Machine as the outside sees it. What it points to is never changed afterwards.
func (m *machine) view() *gondola.Machine {
	r := &m.rec
	v := &gondola.Machine{ID: r.ID, Name: r.Name, State: r.State, Region: m.w.cfg.Region, InstanceID: r.Version, Version: r.Version,
		ImageRef: imageRef(r.Config), Config: r.Config, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, Events: slices.Clone(m.events), HostStatus: "ok",
		Cordoned: r.Cordoned}
	x := &gondola.MachineExtension{App: r.App, Worker: m.w.cfg.Name, HostIPs: m.w.cfg.Host.IPs(), Seq: m.seq, Allocated: m.w.ledger.holds(r.ID),
		Reason: r.Reason, Message: r.Message, Notes: slices.Clone(m.notes.all)}
	v.PrivateIP = privateIP(m.w.cfg.Host.Addresses(hostMachine(*r)))
	if v.Events == nil {
		v.Events = []gondola.Event{}
	}
	if r.Spec != nil {
		if x.Addresses = r.Spec.Addresses; r.Spec.HostNetwork {
			x.HostIPs = r.Spec.HostIPs
			v.PrivateIP = privateIP(x.Addresses)
		}
	}
	st := m.status
	if st == nil && m.pulling == nil {
		st = r.Final
	}
	if st != nil {
		x.SandboxID, x.StartedAt, x.Containers = st.SandboxID, st.StartedAt, slices.Clone(st.Containers)
	} else {
		x.Containers = m.waitingContainers()
	}
	x.Containers = append(x.Containers, m.shownAdditions(x.Containers)...)
	v.Checks = m.checks(st)
	if r.Resized {
		x.Resize = &gondola.ResizeState{Error: m.resizing.err}
	}
	for _, c := range x.Containers {
		v.Containers = append(v.Containers, gondola.MachineContainer{Name: c.Name, State: string(c.State.Kind)})
		if x.Reason == "" && c.State.Kind == gondola.ContainerWaiting && c.State.Message != "" && st == nil {
			x.Reason, x.Message = c.State.Reason, c.State.Message
		}
	}
	v.Gondola = x
	return v
}

// checks are the outcomes of the Machine's Checks; while it does not run there are none.
func (m *machine) checks(st *pilot.Status) []gondola.CheckStatus {
	if st != nil && (m.rec.State == gondola.Starting || m.rec.State == gondola.Started) && len(st.Checks) > 0 {
		return slices.Clone(st.Checks)
	}
	var all []gondola.CheckStatus
	for _, k := range m.rec.Config.AllChecks() {
		all = append(all, gondola.CheckStatus{Name: k.Name, Status: gondola.CheckWarning, Output: "the machine hasn't started", UpdatedAt: m.rec.UpdatedAt})
	}
	return all
}

// waitingContainers is what containers look like before there is a pilot to tell.
func (m *machine) waitingContainers() []gondola.ContainerStatus {
	all := m.rec.Config.Lasting()
	inits := slices.ContainsFunc(all, isInit)
	var cs []gondola.ContainerStatus
	for _, k := range all {
		s, ok := m.pulling[k.Name]
		if !ok {
			s = gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "ContainerCreating"}
			if inits {
				s.Reason = "PodInitializing"
			}
		}
		cs = append(cs, gondola.ContainerStatus{Name: k.Name, Image: k.Image, State: s})
	}
	return cs
}

func isInit(k gondola.Container) bool { return k.Gondola != nil && k.Gondola.Init }

// imageRE is a reference as the distribution specification has it: optional registry, path, tag, digest.
var imageRE = regexp.MustCompile(`^(?:((?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.?)+(?::[0-9]+)?|\[[a-fA-F0-9:]+\](?::[0-9]+)?)/)?` +
	`([a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)(?::([\w][\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?$`)

// parseImage reads an image reference into its parts, docker.io and latest filled in.
func parseImage(s string) (gondola.ImageRef, bool) {
	p := imageRE.FindStringSubmatch(s)
	if p == nil {
		return gondola.ImageRef{}, false
	}
	ref := gondola.ImageRef{Registry: p[1], Repository: p[2], Tag: p[3], Digest: p[4]}
	if ref.Registry != "" && ref.Registry != "localhost" && !strings.ContainsAny(ref.Registry, ".:") {
		ref.Registry, ref.Repository = "", ref.Registry+"/"+ref.Repository // "library/x" has no registry
	}
	if ref.Registry == "" {
		ref.Registry = "docker.io"
		if !strings.Contains(ref.Repository, "/") {
			ref.Repository = "library/" + ref.Repository
		}
	}
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	return ref, ref.Repository == strings.ToLower(ref.Repository)
}

func imageRef(c *gondola.Config) gondola.ImageRef {
	image := c.Image
	if image == "" {
		if all := c.AllContainers(); len(all) > 0 {
			image = all[0].Image
			if i := slices.IndexFunc(all, func(k gondola.Container) bool { return !isInit(k) }); i >= 0 {
				image = all[i].Image
			}
		}
	}
	ref, ok := parseImage(image)
	if !ok {
		return gondola.ImageRef{Repository: image}
	}
	return ref
}
