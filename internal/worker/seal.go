package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"gondola"
	"gondola/internal/store"
)

// kept is what rests sealed on a worker for a Machine, bound to its id.
type kept struct {
	gondola.Payload
	App *gondola.SecretSet `json:"app,omitempty"` // the App's secrets as its server gave them last

	had bool // there was something before
}

// keptFrom is what a request that makes a Machine brings along.
func keptFrom(x *gondola.CreateExtension, skip bool) (k kept) {
	if x.Payload != nil {
		k.Payload = *x.Payload
	}
	if !skip {
		k.App = x.Secrets
	}
	return k
}

// seal returns nil where there is nothing to keep.
func (w *Worker) seal(id gondola.MachineID, k kept) ([]byte, error) {
	k.Payload.Secrets = nil // of who sends it, not of the App
	if k.App == nil && k.Volumes == nil && k.Env == nil && k.Credentials == nil {
		return nil, nil
	}
	plain, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return w.key.Seal(string(id), plain), nil
}

// keptOf opens what is kept for a Machine.
func (w *Worker) keptOf(ctx context.Context, id gondola.MachineID) (k kept, err error) {
	sealed, err := w.store.Sealed(ctx, id)
	if err != nil || sealed == nil {
		return k, err
	}
	plain, err := w.key.Open(string(id), sealed)
	if err != nil {
		return k, fmt.Errorf("payload of machine %w", err)
	}
	if err := json.Unmarshal(plain, &k); err != nil {
		return k, fmt.Errorf("payload of machine %s is damaged", id) // the parser's error may quote a secret
	}
	k.had = true
	return k, nil
}

// over is p, where it is Partial with what it leaves as old has it.
func over(old, p gondola.Payload) gondola.Payload {
	if !p.Partial {
		return p
	}
	volumes, env := p.Volumes, p.Env
	p.Partial, p.Volumes, p.Env = false, map[string][]gondola.PayloadFile{}, map[string]map[string]string{}
	maps.Copy(p.Volumes, old.Volumes)
	maps.Copy(p.Volumes, volumes)
	maps.Copy(p.Env, old.Env)
	maps.Copy(p.Env, env)
	return p
}

// payload is what a Machine with a Config is started with, nil if nothing.
func (w *Worker) payload(ctx context.Context, id gondola.MachineID, c *gondola.Config) (*gondola.Payload, error) {
	k, err := w.keptOf(ctx, id)
	if err != nil || !k.had {
		return nil, err
	}
	k.Payload.Secrets = k.App.For(c)
	return &k.Payload, nil
}

// credentials reads those for registries that the payload of a Machine has.
func (w *Worker) credentials(id gondola.MachineID, c *gondola.Config) func(context.Context) ([]gondola.RegistryCredential, error) {
	return func(ctx context.Context) ([]gondola.RegistryCredential, error) {
		p, err := w.payload(ctx, id, c)
		if err != nil || p == nil {
			return nil, err
		}
		return p.Credentials, nil
	}
}

// keep changes what is kept for the Machine, together with its record, and returns what its pilot gets of it. It runs on the Machine's
// goroutine.
func (m *machine) keep(ctx context.Context, change func(*kept), record func(*record), events ...event) (*gondola.Payload, error) {
	k, err := m.w.keptOf(ctx, m.id)
	if err != nil {
		return nil, err
	}
	change(&k)
	sealed, err := m.w.seal(m.id, k)
	if err != nil {
		return nil, err
	}
	err = m.commitWith(ctx, record, func(row store.Machine, es []gondola.Event) error {
		return m.w.store.SaveWithPayload(ctx, row, sealed, es...)
	}, events...)
	k.Payload.Secrets = k.App.For(m.rec.Config)
	return &k.Payload, err
}

// checkSecrets refuses a request whose secrets are not there, or not there yet.
func checkSecrets(app gondola.AppName, req gondola.CreateRequest, set *gondola.SecretSet) error {
	var version uint64
	if req.Gondola != nil && req.Gondola.Secrets != nil {
		version = req.Gondola.Secrets.Version
	}
	if least := req.MinSecretsVersion; least != nil && version < *least {
		return gondola.Errorf(gondola.ErrPrecondition, "min_secrets_version %d is not reached: the secrets of app %s have version %d", *least, app, version)
	}
	return set.Check(app, &req.Config)
}

// PutSecrets implements gondola.Files. What was put counts from the next start; a Machine that skips the App's secrets keeps none.
func (w *Worker) PutSecrets(ctx context.Context, ref gondola.Ref, set gondola.SecretSet) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	return m.do(ctx, func(ctx context.Context) error {
		if m.rec.State == gondola.Destroying || m.rec.State == gondola.Destroyed {
			return gondola.Errorf(gondola.ErrPrecondition, "machine %s is %s", m.id, m.rec.State)
		}
		if m.rec.SkipSecrets {
			return nil
		}
		k, err := w.keptOf(ctx, m.id)
		if err != nil {
			return err
		}
		if k.App != nil && k.App.Version == set.Version && maps.Equal(k.App.Values, set.Values) {
			return nil
		}
		_, err = m.keep(ctx, func(k *kept) { k.App = &set }, func(*record) {})
		return err
	})
}
