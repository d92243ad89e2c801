package gondola

import "context"

// Sizes changes what Machines may use while they run.
type Sizes interface {
	// Resize changes what a Machine, and those of its containers that req names, reserve and may use. It returns when the step is recorded:
	// the reservation is the new one, or while that is less still the old, until the limits are in effect; MachineExtension.Resize is set
	// until then. It makes no new Version, and no container is restarted but those whose ResizeRestart says so. A Machine that does not run
	// has the new amounts from its next start. Doing it again is harmless.
	//
	// ErrCapacity carries the Refusal of the Machine's worker: what does not fit its Capacity never will, the rest may once others have gone.
	// ErrInvalid for a container that the Machine does not have, ErrPrecondition while the Machine ends or is updated.
	Resize(ctx context.Context, ref Ref, req ResizeRequest) (Machine, error)
}

// ResizeRequest is the body of PUT /v1/gondola/apps/{app}/machines/{id}/size.
type ResizeRequest struct {
	Size                       // of the Machine
	Containers []ContainerSize `json:"containers,omitempty"` // those that are not named keep theirs
}

// Memory is what a Machine that runs may use, the body of the answers of /v1/apps/{app}/machines/{id}/memory.
type Memory struct {
	LimitMB     int `json:"limit_mb"`     // MiB
	AvailableMB int `json:"available_mb"` // MiB of that which it does not use; a few seconds old
}

// ContainerSize is the new Size of one container.
type ContainerSize struct {
	Name string `json:"name"`
	Size
}

// Resized returns the Config with the amounts of req, the Config itself unchanged. ErrInvalid for a container that it does not have.
func (c *Config) Resized(req ResizeRequest) (*Config, error) {
	out := *c
	if out.Guest = c.guestOf(req); out.Guest != nil {
		return &out, nil
	}
	var x ConfigExtension
	if c.Gondola != nil {
		x = *c.Gondola
	}
	x.Requests, x.Limits = &req.Requests, amounts(req.Limits)
	out.Gondola, out.Guest = &x, GuestFor(req.Requests)
	out.Containers = append([]Container(nil), c.Containers...)
	for _, want := range req.Containers {
		k := out.container(want.Name)
		if k == nil {
			return nil, Errorf(ErrInvalid, "containers: the machine has no container %q", want.Name)
		}
		var x ContainerExtension
		if k.Gondola != nil {
			x = *k.Gondola
		}
		x.Requests, x.Limits = amounts(want.Requests), amounts(want.Limits)
		k.Gondola = &x
	}
	return &out, nil
}

// guestOf returns the Guest that says all of req: that of a Config without exact amounts, with another memory. Nil if there is none.
func (c *Config) guestOf(req ResizeRequest) *Guest {
	if c.Gondola != nil && c.Gondola.Requests != nil || len(req.Containers) > 0 {
		return nil
	}
	g := c.guest()
	g.MemoryMB = int(req.Requests.MemoryBytes >> 20)
	if requests, limits := g.Resources(); req.Size != (Size{requests, limits}) {
		return nil
	}
	return &g
}

func (c *Config) container(name string) *Container {
	for i := range c.Containers {
		if c.Containers[i].Name == name {
			return &c.Containers[i]
		}
	}
	return nil
}

// Size returns what the container was asked to reserve and to be limited to.
func (c *Container) Size() Size {
	var s Size
	if c.Gondola != nil && c.Gondola.Requests != nil {
		s.Requests = *c.Gondola.Requests
	}
	if c.Gondola != nil && c.Gondola.Limits != nil {
		s.Limits = *c.Gondola.Limits
	}
	return s
}

func amounts(r Resources) *Resources {
	if r == (Resources{}) {
		return nil
	}
	return &r
}
