package pilot

import (
	"slices"
	"time"

	"gondola"
)

// dependencies returns what a container waits for. One that names nothing waits, if there are init containers, for those before it.
func dependencies(spec *Spec, c *Container) []gondola.Dependency {
	if isEphemeral(c) {
		return nil
	}
	if len(c.Config.DependsOn) > 0 {
		return c.Config.DependsOn
	}
	var deps []gondola.Dependency
	for i := range spec.Containers {
		other := &spec.Containers[i]
		if other.Name == c.Name && !isMain(c) {
			break
		}
		switch {
		case other.Name != c.Name && isInit(other):
			deps = append(deps, gondola.Dependency{Name: other.Name, Condition: gondola.DependsExited})
		case other.Name != c.Name && isSidecar(other):
			deps = append(deps, gondola.Dependency{Name: other.Name, Condition: gondola.DependsStarted})
		}
	}
	return deps
}

// isInit says whether the container has to run to its end before others start.
func isInit(c *Container) bool {
	return c.Config.Gondola != nil && c.Config.Gondola.Init && !c.Config.Gondola.Sidecar
}

func isSidecar(c *Container) bool {
	return c.Config.Gondola != nil && c.Config.Gondola.Init && c.Config.Gondola.Sidecar
}

func (s *Supervisor) isSidecarName(name string) bool {
	return slices.ContainsFunc(s.spec.Containers, func(c Container) bool { return c.Name == name && isSidecar(&c) })
}

func isEphemeral(c *Container) bool { return c.Config.Gondola != nil && c.Config.Gondola.Ephemeral }

// isMain says whether the Machine is there for this container: it ends when all of these have.
func isMain(c *Container) bool { return !isInit(c) && !isSidecar(c) && !isEphemeral(c) }

// over says whether the container is not to run any more: the Machine was told to stop, or what a sidecar or an ephemeral container is there
// for has ended.
func (s *Supervisor) over(c *Container) bool {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.overLocked(c)
}

func (s *Supervisor) overLocked(c *Container) bool {
	return s.stoppingLocked() || !isMain(c) && !isInit(c) && s.mainsDoneLocked()
}

// mainsDoneLocked says whether all containers for which the Machine is there have ended for good.
func (s *Supervisor) mainsDoneLocked() bool {
	for i := range s.spec.Containers {
		c := &s.spec.Containers[i]
		if k := s.ledger.index(c.Name); isMain(c) && k >= 0 && !s.ledger.containers[k].Done {
			return false
		}
	}
	return true
}

// met says whether a dependency allows the start of its container, and whether it can never do so any more.
func met(d gondola.Dependency, dep containerRecord) (ok, never bool) {
	state := dep.Status.State
	exited := dep.Done && state.Kind == gondola.ContainerExited
	switch d.Condition {
	case gondola.DependsHealthy:
		ok = dep.Status.Ready && state.Kind == gondola.ContainerRunning
	case gondola.DependsExited:
		ok = exited && state.ExitCode == 0
	default:
		ok = dep.Status.Started || exited
	}
	return ok, dep.Done && !ok
}

// turn is what a container that waits for its dependencies is to do.
type turn int

const (
	turnWait  turn = iota
	turnStart      // all conditions hold
	turnNever      // one can never hold: the container ends without having run
)

func (s *Supervisor) turn(c *Container) (t turn, initializing bool) {
	t = turnStart
	for _, d := range dependencies(&s.spec, c) {
		ok, never := met(d, s.ledger.container(d.Name))
		if never {
			return turnNever, d.Condition == gondola.DependsExited
		}
		if !ok {
			t = turnWait
			initializing = initializing || d.Condition == gondola.DependsExited || s.isSidecarName(d.Name)
		}
	}
	return t, initializing
}

// dependents says whether containers that need c run: they are stopped before it. A sidecar is needed by all that come after it.
func (s *Supervisor) dependents(c *Container) bool {
	after := false
	for i := range s.spec.Containers {
		other := &s.spec.Containers[i]
		if after && !isEphemeral(other) && s.ledger.container(other.Name).Begun {
			return true
		}
		after = after || isSidecar(c) && other.Name == c.Name
		for _, d := range other.Config.DependsOn {
			if d.Name == c.Name && d.Condition != gondola.DependsExited && s.ledger.container(other.Name).Begun {
				return true
			}
		}
	}
	return false
}

// sandboxMade records a new sandbox. Where an earlier one had containers, those that ran have died with it, and those that would run, with
// the init containers before them, start anew. Of a Pod only those do that its policy lets run again, as with a kubelet. cold says why it was not resumed.
func (l *ledger) sandboxMade(spec *Spec, cold string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, kubernetes := time.Now(), spec.RestartBackoff == "kubernetes"
	e := entry{Sandbox: &sandboxRecord{ID: gondola.NewULID(now), StartedAt: now, Size: &gondola.Size{Requests: spec.Requests, Limits: spec.Limits}, Cold: cold},
		Checks: newChecks(spec, now)}
	last, again := map[string]bool{}, map[string]bool{}
	for _, c := range l.containers {
		last[c.Status.Name] = kubernetes && lastRun(spec, &c)
	}
	var need func(name string)
	need = func(name string) {
		if last[name] || again[name] {
			return
		}
		again[name] = true
		for i := range spec.Containers {
			if spec.Containers[i].Name == name {
				for _, d := range dependencies(spec, &spec.Containers[i]) {
					if d.Condition == gondola.DependsExited {
						need(d.Name)
					}
				}
			}
		}
	}
	for _, c := range l.containers {
		if !c.Done {
			need(c.Status.Name)
		}
	}
	changed := false
	for _, c := range l.containers {
		switch {
		case last[c.Status.Name]:
			c.Status.State = c.lost(l.oom, now)
			c.Status.Ready, c.Status.Started = false, false
			c.Begun, c.Done, c.Again, c.Earlier = false, true, false, nil
			e.Containers = append(e.Containers, c)
		case again[c.Status.Name] && c.Starts > 0:
			e.Containers = append(e.Containers, afresh(c, l.oom, kubernetes, now))
			changed = true
		}
	}
	if changed {
		e.Notes = []gondola.Note{{Reason: "SandboxChanged", Message: "Pod sandbox changed, it will be killed and re-created."}}
	}
	l.commitLocked(e, true)
}

// lastRun says whether a container ran when its sandbox was lost, and that was its last run by its policy.
func lastRun(spec *Spec, c *containerRecord) bool {
	i := slices.IndexFunc(spec.Containers, func(k Container) bool { return k.Name == c.Status.Name })
	return i >= 0 && c.Begun && c.Status.State.Kind == gondola.ContainerRunning && !spec.Containers[i].Config.Restarts(lostCode, c.Row)
}

// lostCode is the exit code of a container that died with its sandbox.
const lostCode = 137

// lost is the end of a run that died with its sandbox.
func (c *containerRecord) lost(oom bool, now time.Time) gondola.ContainerState {
	state := gondola.ContainerState{Kind: gondola.ContainerExited, Reason: "Error", ExitCode: lostCode, StartedAt: c.Status.State.StartedAt, FinishedAt: now,
		ContainerID: c.Status.ContainerID, Message: "The container could not be located when the sandbox was made anew: the old sandbox, or its host, has died."}
	if oom {
		state.Reason = "OOMKilled"
		state.Message = "The sandbox has used more memory than its limit."
	}
	return state
}

// afresh is a container's record after its sandbox was lost. Those of a Pod keep their back-off: as with a kubelet, it is theirs and not the
// sandbox's. Others are forgiven their failures, unless it was their own use of memory that ended the sandbox.
func afresh(c containerRecord, oom, kubernetes bool, now time.Time) containerRecord {
	state, row, waits := c.Status.State, 0, false
	if kubernetes && !c.Done {
		row = c.Row
		waits = !c.Begun && (state.Kind == gondola.ContainerExited || state.Reason == "CrashLoopBackOff")
	}
	if !oom || c.Begun || c.Done {
		c.Failed = nil
	}
	switch {
	case c.Begun && state.Kind != gondola.ContainerRunning: // it did not get as far as running: the next start is still the same one
		c.Starts = max(c.Starts-1, 0)
	case c.Begun:
		if now.Sub(state.StartedAt) >= gondola.KubernetesBackoff.Forget {
			row = 0
		}
		state = c.lost(oom, now)
	}
	c.Status.State = state
	if !waits {
		c.wait(gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "ContainerCreating"})
	}
	c.Status.Ready, c.Status.Started = false, false
	c.Begun, c.Done, c.Hooked, c.Row, c.Again = false, false, false, row, false
	if c.Status.Ephemeral && c.Status.Last != nil { // it had its one run
		c.Done = true
		c.rest()
	}
	return c
}
