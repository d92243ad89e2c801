package pilot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"gondola"
)

// Size is what a Machine and its containers reserve and may use.
type Size struct {
	gondola.Size
	Containers map[string]gondola.Size `json:"containers"` // the ephemeral ones have none of their own
}

// Size returns what the Spec asks for.
func (s *Spec) Size() Size {
	size := Size{Size: gondola.Size{Requests: s.Requests, Limits: s.Limits}, Containers: map[string]gondola.Size{}}
	for i := range s.Containers {
		size.Containers[s.Containers[i].Name] = s.Containers[i].Config.Size()
	}
	return size
}

// sized returns the container with the size that it is to have now.
func (s *Supervisor) sized(c *Container) Container {
	s.mu.Lock()
	size, ok := s.size.Containers[c.Name]
	s.mu.Unlock()
	if !ok || size == c.Config.Size() {
		return *c
	}
	var x gondola.ContainerExtension
	if c.Config.Gondola != nil {
		x = *c.Config.Gondola
	}
	x.Requests, x.Limits = &size.Requests, &size.Limits
	out := *c
	out.Config.Gondola = &x
	return out
}

// Resize implements API. The new size is written down nowhere: who asks does so until every Status says that it is in effect.
func (s *Supervisor) Resize(ctx context.Context, size Size) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.resizing.Lock()
	defer s.resizing.Unlock()
	if phase := s.phase(); phase != Running {
		return gondola.Errorf(gondola.ErrPrecondition, "machine %s is %s: it can be resized while it runs", s.spec.Machine, phase)
	}
	s.mu.Lock()
	old := s.size
	s.mu.Unlock()
	if err := s.checkShrink(ctx, old, size); err != nil {
		return err
	}
	// Containers may not have more than the sandbox: it takes the larger first, and the smaller last.
	wide := gondola.Size{Requests: size.Requests, Limits: wider(old.Limits, size.Limits)}
	if err := s.rt.Resize(ctx, wide); err != nil {
		return fmt.Errorf("resize the sandbox: %w", err)
	}
	s.mu.Lock()
	s.size = size
	s.mu.Unlock()
	select {
	case s.resized <- struct{}{}:
	default:
	}
	var errs []error
	for i := range s.spec.Containers {
		errs = append(errs, s.resizeContainer(ctx, &s.spec.Containers[i], wide.Limits != old.Limits || wide.Limits != size.Limits))
	}
	if wide != size.Size {
		if err := s.rt.Resize(ctx, size.Size); err != nil {
			errs = append(errs, fmt.Errorf("resize the sandbox: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.ledger.resized(size.Size)
	return nil
}

// resizeContainer brings one container to its size, if it runs: in place, or by a restart where it wants one.
func (s *Supervisor) resizeContainer(ctx context.Context, c *Container, around bool) error {
	rec := s.ledger.container(c.Name)
	sized := s.sized(c)
	size := sized.Config.Size()
	if rec.Status.State.Kind != gondola.ContainerRunning || rec.Status.Size != nil && *rec.Status.Size == size && !around {
		return nil
	}
	if rec.Status.Size != nil && wantsRestart(c, *rec.Status.Size, size) {
		s.ledger.change(c.Name, true, func(r *containerRecord) bool {
			if r.Again || r.Status.State.Kind != gondola.ContainerRunning {
				return false
			}
			r.Again = true
			return true
		})
		return nil
	}
	if err := s.rt.Limit(ctx, sized); err != nil {
		if s.ledger.container(c.Name).Status.State.Kind != gondola.ContainerRunning {
			return nil // its next run has the new size
		}
		return fmt.Errorf("resize container %s: %w", c.Name, err)
	}
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		if r.Status.State.Kind != gondola.ContainerRunning || r.Status.ContainerID != rec.Status.ContainerID {
			return false
		}
		r.Status.Size = &size
		return true
	})
	return nil
}

// wantsRestart says whether the container is to be started anew for this change.
func wantsRestart(c *Container, from, to gondola.Size) bool {
	if c.Config.Gondola == nil {
		return false
	}
	cpu := from.Requests.CPUMillis != to.Requests.CPUMillis || from.Limits.CPUMillis != to.Limits.CPUMillis
	memory := from.Requests.MemoryBytes != to.Requests.MemoryBytes || from.Limits.MemoryBytes != to.Limits.MemoryBytes
	on := c.Config.Gondola.ResizeRestart
	return cpu && slices.Contains(on, "cpu") || memory && slices.Contains(on, "memory")
}

// checkShrink refuses limits of memory below what is used, which would end what runs.
func (s *Supervisor) checkShrink(ctx context.Context, old, size Size) error {
	less := func(from, to int64) bool { return to > 0 && (from == 0 || to < from) }
	shrinking := map[string]int64{}
	for name, to := range size.Containers {
		if less(old.Containers[name].Limits.MemoryBytes, to.Limits.MemoryBytes) {
			shrinking[name] = to.Limits.MemoryBytes
		}
	}
	whole := less(old.Limits.MemoryBytes, size.Limits.MemoryBytes)
	if len(shrinking) == 0 && !whole {
		return nil
	}
	usage, err := s.rt.Usage(ctx)
	if err != nil {
		return fmt.Errorf("memory that is used cannot be read: %w", err)
	}
	var errs []error
	sum := int64(0)
	for _, name := range slices.Sorted(maps.Keys(usage)) {
		sum += usage[name]
		if to, ok := shrinking[name]; ok && usage[name] >= to && !s.restarts(name, size) {
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", name, to, usage[name]))
		}
	}
	if whole && sum >= size.Limits.MemoryBytes && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", size.Limits.MemoryBytes, sum))
	}
	if len(errs) > 0 {
		return gondola.Errorf(gondola.ErrPrecondition, "%w", errors.Join(errs...))
	}
	return nil
}

// restarts says whether a container is to be started anew for the new size.
func (s *Supervisor) restarts(name string, size Size) bool {
	i := slices.IndexFunc(s.spec.Containers, func(c Container) bool { return c.Name == name })
	rec := s.ledger.container(name)
	return i >= 0 && rec.Status.Size != nil && wantsRestart(&s.spec.Containers[i], *rec.Status.Size, size.Containers[name])
}

// wider returns the higher limits of two; zero is none.
func wider(a, b gondola.Resources) gondola.Resources {
	higher := func(a, b int64) int64 {
		if a == 0 || b == 0 {
			return 0
		}
		return max(a, b)
	}
	return gondola.Resources{CPUMillis: higher(a.CPUMillis, b.CPUMillis), MemoryBytes: higher(a.MemoryBytes, b.MemoryBytes)}
}

// again says whether a container that runs is to be ended and started anew.
func (s *Supervisor) again(name string) bool { return s.ledger.container(name).Again }

// resized records the size that the sandbox has by now.
func (l *ledger) resized(size gondola.Size) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sandbox.Size != nil && *l.sandbox.Size == size {
		return
	}
	box := l.sandbox
	box.Size = &size
	l.commitLocked(entry{Sandbox: &box}, true)
}
