package gondola

import "context"

// Containers adds to Machines that run.
type Containers interface {
	// AddContainer starts one more container in a Machine that is starting or started (else ErrPrecondition): an ephemeral one, for a look
	// inside (`kubectl debug`). It returns when the step is recorded; what becomes of it is in MachineExtension.Containers and Notes, a pull
	// that fails is tried again. The container is run once and never again, the Machine does not wait for it, and the next run of the
	// Machine has it no more. It makes no new Version. Doing it again with an equal container is harmless; another one of a name that is taken
	// is ErrConflict.
	AddContainer(ctx context.Context, ref Ref, req AddContainerRequest) error
}

// AddContainerRequest is the body of POST /v1/gondola/apps/{app}/machines/{id}/containers.
type AddContainerRequest struct {
	// Container has a name that no other of the Machine has. Its Gondola may name a Target; dependencies and health checks it has none, and
	// its restart policy is "no" whatever it says.
	Container Container `json:"container"`
	Payload   *Payload  `json:"payload,omitempty"` // If set, replaces the Machine's, as PutPayload does: with what the container needs.
}

// IsEphemeral says whether the container was added to a Machine that runs.
func (c *Container) IsEphemeral() bool { return c.Gondola != nil && c.Gondola.Ephemeral }

// Lasting returns the Machine's containers without the ephemeral ones.
func (c *Config) Lasting() []Container {
	var out []Container
	for _, k := range c.AllContainers() {
		if !k.IsEphemeral() {
			out = append(out, k)
		}
	}
	return out
}
