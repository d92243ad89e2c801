package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/store"
)

var (
	machineNameRE = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$`)
	machineIDRE   = regexp.MustCompile(`^[0-9a-f]{14}$`)
)

// Create commits capacity, number and row of a Machine in one step and starts it unless req.SkipLaunch. The id is req.Gondola.ID where the
// server chose one. It never sells more than the worker has: ErrCapacity carries the Refusal, whose reason is the message.
func (w *Worker) Create(ctx context.Context, app gondola.AppName, req gondola.CreateRequest) (gondola.Machine, error) {
	if err := w.awaitRun(ctx); err != nil {
		return gondola.Machine{}, err
	}
	row, payload, err := w.newRow(ctx, app, req)
	if err != nil {
		return gondola.Machine{}, err
	}
	w.creating.Lock()
	defer w.creating.Unlock()
	if m, err := w.twin(ctx, row, req.Name != ""); m != nil || err != nil {
		if err != nil {
			return gondola.Machine{}, err
		}
		return w.withNonce(ctx, *m, req.LeaseTTL), nil
	}
	for w.nameTaken(name{app, row.Name}) { // made up: make up another
		row.Name = gondola.NewMachineName()
	}
	if err := w.checkServices(app, row.Network, row.Config); err != nil {
		return gondola.Machine{}, err
	}
	if err := w.checkGateway(row.Network, row.Config); err != nil {
		return gondola.Machine{}, err
	}
	if err := w.disks.claim(app, row.ID, row.Config); err != nil {
		return gondola.Machine{}, err
	}
	if err := w.commitCapacity(&row, req.SkipLaunch); err != nil {
		w.disks.hold(row.ID, nil)
		return gondola.Machine{}, err
	}
	sealed, err := w.seal(row.ID, payload)
	var m *gondola.Machine
	if err == nil {
		m, err = w.insert(ctx, row, sealed)
	}
	if err != nil {
		w.ledger.release(row.ID, row.Number)
		w.disks.hold(row.ID, nil)
		return gondola.Machine{}, err
	}
	return w.withNonce(ctx, *m, req.LeaseTTL), nil
}

// insert records the Machine, starts its goroutine and returns it as it was before that.
func (w *Worker) insert(ctx context.Context, row store.Machine, sealed []byte) (*gondola.Machine, error) {
	m, err := newMachine(w, row, nil)
	if err != nil {
		return nil, err
	}
	m.origin = trace.SpanContextFromContext(ctx)
	events := m.eventsOf(gondola.Created, []event{{kind: "launch", status: "pending", source: "flyd"}, {kind: "launch", source: "user"}})
	m.events = events
	failpoint.Hit("worker.create.begun")
	if err := w.cfg.Host.Describe(ctx, m.subject()); err != nil {
		return nil, err
	}
	failpoint.Hit("worker.create.described")
	if err := w.store.Create(ctx, row, sealed, events...); err != nil {
		return nil, err
	}
	failpoint.Hit("worker.create.recorded")
	w.mu.Lock()
	if w.base.Err() != nil {
		w.mu.Unlock()
		return nil, gondola.Errorf(gondola.ErrUnavailable, "worker %s is going down: ask again when it is back", w.cfg.Name)
	}
	w.machines[row.ID], w.names[name{row.App, row.Name}] = m, row.ID
	w.mu.Unlock()
	m.show()
	m.noteServices(row.Config)
	v := w.hub.view(row.ID)
	w.offerChanged()
	w.tasks.Go(func() { m.run(w.base) })
	return v, nil
}

// newRow validates a request and makes the row that it asks for.
func (w *Worker) newRow(ctx context.Context, app gondola.AppName, req gondola.CreateRequest) (store.Machine, kept, error) {
	if err := app.Validate(); err != nil {
		return store.Machine{}, kept{}, err
	}
	if err := (gondola.LeaseRequest{TTL: req.LeaseTTL}).Validate(); err != nil {
		return store.Machine{}, kept{}, fmt.Errorf("lease_%w", err)
	}
	config := req.Config
	if err := w.validate(&config, ""); err != nil {
		return store.Machine{}, kept{}, err
	}
	if len(config.Lasting()) < len(config.AllContainers()) {
		return store.Machine{}, kept{}, gondola.Errorf(gondola.ErrInvalid, "config.containers: an ephemeral container is added to a machine that runs: create it without")
	}
	now := time.Now().UTC()
	row := store.Machine{ID: gondola.NewMachineID(), App: app, Name: req.Name, Network: gondola.DefaultNetwork, State: gondola.Created,
		Target: gondola.Started, Version: gondola.NewVersion(now), Config: &config, CreatedAt: now, UpdatedAt: now}
	if req.SkipLaunch {
		row.Target = gondola.Created
	}
	if row.Name == "" {
		row.Name = gondola.NewMachineName()
	} else if len(row.Name) > 253 || !machineNameRE.MatchString(row.Name) {
		return row, kept{}, gondola.Errorf(gondola.ErrInvalid, "name %q: use 1 to 253 letters, digits, dots, dashes and underscores", row.Name)
	}
	var keep kept
	if x := req.Gondola; x != nil {
		if x.ID != "" {
			if row.ID = x.ID; !machineIDRE.MatchString(string(x.ID)) {
				return row, kept{}, gondola.Errorf(gondola.ErrInvalid, "gondola.id %q: want 14 lower-case hexadecimal characters", x.ID)
			}
		}
		if x.Network != "" {
			row.Network = x.Network
		}
		row.NetworkID, keep = x.NetworkID, keptFrom(x, req.SkipSecrets)
	}
	if err := checkSecrets(app, req, keep.App); err != nil {
		return row, kept{}, err
	}
	var err error
	d := detail{Driver: w.driverOf(&config), Cordoned: req.SkipServiceRegistration, SkipSecrets: req.SkipSecrets,
		Due: gondola.NextRun(config.Schedule, now, now)}
	if req.LeaseTTL != 0 {
		lease := newLease(ctx, gondola.LeaseRequest{TTL: req.LeaseTTL}, row.Version)
		d.Lease = &lease
	}
	row.Detail, err = json.Marshal(d)
	return row, keep, err
}

func (w *Worker) driverOf(c *gondola.Config) string {
	if c.Gondola != nil && c.Gondola.Driver != "" {
		return c.Gondola.Driver
	}
	return w.cfg.DefaultDriver
}

// validate refuses what the Config must not be, and what this worker cannot do, before anything is made. runs is the driver of a Machine that
// is there already, which it keeps also where new ones may not ask for it any more.
func (w *Worker) validate(c *gondola.Config, runs string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	name := w.driverOf(c)
	if runs != "" && (c.Gondola == nil || c.Gondola.Driver == "") {
		name = runs
	}
	if name != runs && !slices.Contains(w.cfg.Allowed, name) {
		return w.notAllowed(name)
	}
	d, ok := w.cfg.Drivers[name]
	if !ok {
		return w.notAllowed(name)
	}
	can := d.Capabilities()
	unsupported := func(field, why string) error { return gondola.Errorf(gondola.ErrUnsupported, "%s: %s", field, why) }
	switch {
	case len(c.AllContainers()) > 1 && !can.MultiContainer:
		return unsupported("config.containers", "driver "+name+" runs one container per machine")
	case len(c.Standbys) > 0:
		return unsupported("config.standbys", "this platform starts machines only when asked or by their schedule")
	}
	if err := unsupportedConfig(c); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if m.ExtendThresholdPercent != 0 || m.AddSizeGB != 0 || m.AddSizePercent != 0 || m.MinAddSizeGB != 0 || m.SizeGBLimit != 0 {
			return unsupported("config.mounts "+m.Label(), "a volume does not grow by itself; extend it when it is full")
		}
	}
	for _, k := range c.AllContainers() {
		if k.Gondola != nil && k.Gondola.TTY && !can.TTY {
			return unsupported("container "+k.Name, "driver "+name+" has no terminals")
		}
		if k.Gondola != nil && k.Gondola.Target != "" && !can.Target {
			return unsupported("container "+k.Name+": target", "driver "+name+" cannot share the processes of one container alone")
		}
		if s := k.Gondola; s != nil && s.Security != nil && len(s.Security.Sysctls) > 0 {
			if !can.Sysctls {
				return unsupported("container "+k.Name+": security.sysctls", "driver "+name+" has a kernel of its own with none of them")
			}
			if err := gondola.CheckSysctls(s.Security.Sysctls); err != nil {
				return fmt.Errorf("container %s: %w", k.Name, err)
			}
		}
		for _, f := range k.Files {
			if _, ok := parseImage(f.ImageConfig); f.ImageConfig != "" && !ok {
				return gondola.Errorf(gondola.ErrInvalid, "container %s: file %s: image_config %q is no image reference", k.Name, f.GuestPath, f.ImageConfig)
			}
		}
		for _, e := range k.EnvFrom {
			if !slices.Contains([]string{"id", "version", "app_name", "private_ip", "region", "image"}, e.FieldRef) {
				return gondola.Errorf(gondola.ErrInvalid, "container %s: env_from.field_ref %q: use id, version, app_name, private_ip, region or image", k.Name, e.FieldRef)
			}
		}
		if k.Gondola != nil && !slices.Contains([]string{"", "always", "if_not_present", "never"}, k.Gondola.PullPolicy) {
			return gondola.Errorf(gondola.ErrInvalid, "container %s: pull_policy %q: use always, if_not_present or never", k.Name, k.Gondola.PullPolicy)
		}
	}
	return nil
}

// notAllowed says that a driver may not be asked for, and who can change that.
func (w *Worker) notAllowed(name string) error {
	offers := strings.Join(w.cfg.Allowed, ", ")
	if name == "runc" {
		return gondola.Errorf(gondola.ErrUnsupported, "config.gondola.driver %q is not allowed on worker %s, which offers %s: its operator allows it with gondola up --allow-driver %s", name, w.cfg.Name, offers, name)
	}
	return gondola.Errorf(gondola.ErrUnsupported, "config.gondola.driver %q is not on worker %s: it offers %s", name, w.cfg.Name, offers)
}

// twin finds the Machine that row would be: the same id, or the same explicit name, and an equal Config. A different one is an error, and so is one
// that is on its way out.
func (w *Worker) twin(ctx context.Context, row store.Machine, named bool) (*gondola.Machine, error) {
	w.mu.Lock()
	id := row.ID
	m := w.machines[id]
	if m == nil && named {
		id = w.names[name{row.App, row.Name}]
		m = w.machines[id]
	}
	w.mu.Unlock()
	if m == nil {
		if old, err := w.store.Machine(ctx, row.ID); err == nil {
			return nil, gondola.Errorf(gondola.ErrConflict, "machine %s was destroyed at %s: create one with another id", row.ID, old.DestroyedAt.Format(time.RFC3339))
		}
		return nil, nil
	}
	if m.app != row.App {
		return nil, gondola.Errorf(gondola.ErrConflict, "machine id %s is taken by another app", id)
	}
	view := w.hub.view(id)
	if view == nil || view.State == gondola.Destroying {
		kind := gondola.ErrConflict
		if named {
			kind = gondola.ErrNameTaken
		}
		return nil, gondola.Errorf(kind, "machine %s of app %s is being destroyed: ask again when it is gone", id, row.App)
	}
	if sameConfig(view.Config, sameMounts(row.Config, view.Config)) && (!named || view.Name == row.Name) {
		return view, nil
	}
	if view.Name != row.Name {
		return nil, gondola.Errorf(gondola.ErrConflict, "machine %s exists with another name or config: update it instead", id)
	}
	return nil, gondola.Errorf(gondola.ErrNameTaken, "Name has already been taken: machine %s of app %s is called %q", id, row.App, row.Name)
}

func (w *Worker) nameTaken(n name) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, taken := w.names[n]
	return taken
}

func sameConfig(a, b *gondola.Config) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// commitCapacity takes what the Machine needs out of the ledger and gives it a number, or refuses as a Bid would.
func (w *Worker) commitCapacity(row *store.Machine, skip bool) error {
	want, _ := row.Config.Requests()
	if skip {
		want = gondola.Resources{}
	}
	o := w.offered()
	if skip {
		o.free = o.capacity // takes nothing yet
	}
	if _, refusal := computeBid(o, gondola.Ask{Requests: want}); refusal != nil {
		return refused(*refusal)
	}
	if free, ok := w.ledger.take(row.ID, want); !ok {
		o.free = free
		_, refusal := computeBid(o, gondola.Ask{Requests: want})
		if refusal == nil {
			refusal = &gondola.Refusal{Worker: o.worker, Region: o.region, Reason: want.String() + " wanted, somebody else was faster", Free: free, Capacity: o.capacity}
		}
		return refused(*refusal)
	}
	row.Allocated = want
	if row.Number = w.ledger.number(row.ID); row.Number == 0 {
		w.ledger.release(row.ID, 0)
		return refused(gondola.Refusal{Worker: o.worker, Region: o.region, Reason: "insufficient IPs", Free: o.free, Capacity: o.capacity})
	}
	return nil
}
