package market

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"gondola"
	"gondola/internal/store"
)

// SecretIndex is where the secrets of Apps are on record, sealed.
type SecretIndex interface {
	ChangeSecrets(ctx context.Context, app gondola.AppName, changes []store.Secret, most int) (version uint64, err error)
	Secrets(ctx context.Context, app gondola.AppName) (list []store.Secret, version uint64, err error)
	ResealSecrets(ctx context.Context, reseal func(store.Secret) (store.Secret, error)) error
}

// about is what a secret's seal is bound to, so that one cannot be passed off as another.
func about(app gondola.AppName, name string) string {
	return "secret " + name + " of app " + string(app)
}

func (m *Market) needKey() error {
	if m.key == nil {
		return gondola.Errorf(gondola.ErrUnsupported, "this server has no key to keep secrets with")
	}
	return nil
}

// sealed returns an App's secrets as they rest.
func (m *Market) sealed(ctx context.Context, app gondola.AppName, q gondola.SecretsQuery) ([]store.Secret, error) {
	if err := m.needKey(); err != nil {
		return nil, err
	}
	list, version, err := m.index.Secrets(ctx, app)
	if err == nil && version < q.MinVersion {
		err = gondola.Errorf(gondola.ErrPrecondition, "min_version %d is not reached: the secrets of app %s have version %d", q.MinVersion, app, version)
	}
	return list, err
}

// ListSecrets implements gondola.Secrets.
func (m *Market) ListSecrets(ctx context.Context, app gondola.AppName, q gondola.SecretsQuery) ([]gondola.AppSecret, error) {
	list, err := m.sealed(ctx, app, q)
	if err != nil {
		return nil, err
	}
	out := []gondola.AppSecret{}
	for _, secret := range list {
		shown, err := m.shown(secret, q)
		if err != nil {
			return nil, err
		}
		out = append(out, shown)
	}
	return out, nil
}

func (m *Market) shown(s store.Secret, q gondola.SecretsQuery) (gondola.AppSecret, error) {
	out := gondola.AppSecret{Name: s.Name, Digest: s.Digest, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt}
	if !q.Show {
		return out, nil
	}
	plain, err := m.key.Open(about(s.App, s.Name), s.Sealed)
	out.Value = string(plain)
	return out, err
}

// Secret implements gondola.Secrets.
func (m *Market) Secret(ctx context.Context, app gondola.AppName, name string, q gondola.SecretsQuery) (gondola.AppSecret, error) {
	list, err := m.sealed(ctx, app, q)
	if err != nil {
		return gondola.AppSecret{}, err
	}
	i := slices.IndexFunc(list, func(s store.Secret) bool { return s.Name == name })
	if i < 0 {
		return gondola.AppSecret{}, secretNotFound(app, name)
	}
	return m.shown(list[i], q)
}

func secretNotFound(app gondola.AppName, name string) error {
	return gondola.Errorf(gondola.ErrNotFound, "secret not found: app %s has none with name %q", app, name)
}

// SetSecret implements gondola.Secrets.
func (m *Market) SetSecret(ctx context.Context, app gondola.AppName, name, value string) (gondola.SecretsUpdate, error) {
	return m.UpdateSecrets(ctx, app, map[string]*string{name: &value})
}

// DeleteSecret implements gondola.Secrets.
func (m *Market) DeleteSecret(ctx context.Context, app gondola.AppName, name string) (gondola.SecretsUpdate, error) {
	if _, err := m.Secret(ctx, app, name, gondola.SecretsQuery{}); err != nil {
		return gondola.SecretsUpdate{}, err
	}
	return m.UpdateSecrets(ctx, app, map[string]*string{name: nil})
}

// UpdateSecrets implements gondola.Secrets.
func (m *Market) UpdateSecrets(ctx context.Context, app gondola.AppName, values map[string]*string) (gondola.SecretsUpdate, error) {
	if err := m.needKey(); err != nil {
		return gondola.SecretsUpdate{}, err
	}
	if len(values) == 0 {
		return gondola.SecretsUpdate{}, gondola.Errorf(gondola.ErrInvalid, "values is missing: name at least one secret")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := gondola.CheckSecret(name, values[name]); err != nil {
			return gondola.SecretsUpdate{}, err
		}
	}
	unlock, err := m.locks.use(ctx, lockOf(app))
	if err != nil {
		return gondola.SecretsUpdate{}, err
	}
	defer unlock()
	m.sealing.Lock()
	defer m.sealing.Unlock()
	if err := m.checkSecretRoom(ctx, app, values); err != nil {
		return gondola.SecretsUpdate{}, err
	}
	now := time.Now().UTC()
	var changes []store.Secret
	for name, value := range values {
		c := store.Secret{App: app, Name: name, UpdatedAt: now}
		if value != nil {
			c.Sealed, c.Digest = m.key.Seal(about(app, name), []byte(*value)), m.key.Digest(about(app, name), []byte(*value))
		}
		changes = append(changes, c)
	}
	version, err := m.index.ChangeSecrets(ctx, app, changes, gondola.MaxSecrets)
	if err != nil {
		return gondola.SecretsUpdate{}, err
	}
	out := gondola.SecretsUpdate{Version: version, Secrets: []gondola.AppSecret{}}
	list, err := m.ListSecrets(ctx, app, gondola.SecretsQuery{})
	for _, s := range list {
		if values[s.Name] != nil {
			out.Secrets = append(out.Secrets, s)
		}
	}
	return out, err
}

// checkSecretRoom refuses what would be more than all values of an App together may be. m.sealing is held.
func (m *Market) checkSecretRoom(ctx context.Context, app gondola.AppName, values map[string]*string) error {
	list, _, err := m.index.Secrets(ctx, app)
	if err != nil {
		return err
	}
	all := 0
	for _, s := range list {
		if _, changes := values[s.Name]; !changes {
			all += len(s.Sealed)
		}
	}
	for _, v := range values {
		if v != nil {
			all += len(*v)
		}
	}
	if all > gondola.MaxSecretBytes {
		return gondola.Errorf(gondola.ErrInvalid, "the secrets of app %s would take %d bytes together; at most %d are allowed: mount a volume for large files", app, all, gondola.MaxSecretBytes)
	}
	return nil
}

// RenewSecretsKey implements gondola.Secrets.
func (m *Market) RenewSecretsKey(ctx context.Context) error {
	if err := m.needKey(); err != nil {
		return err
	}
	m.sealing.Lock()
	defer m.sealing.Unlock()
	return m.key.Renew(func() error {
		return m.index.ResealSecrets(ctx, func(s store.Secret) (store.Secret, error) {
			plain, err := m.key.Open(about(s.App, s.Name), s.Sealed)
			if err != nil {
				return s, err
			}
			s.Sealed, s.Digest = m.key.Seal(about(s.App, s.Name), plain), m.key.Digest(about(s.App, s.Name), plain)
			return s, nil
		})
	})
}

// secretsOf is what a worker gets of an App's secrets; nil if it never had any.
func (m *Market) secretsOf(ctx context.Context, app gondola.AppName) (*gondola.SecretSet, error) {
	if m.key == nil {
		return nil, nil
	}
	list, version, err := m.index.Secrets(ctx, app)
	if err != nil || version == 0 {
		return nil, err
	}
	set := &gondola.SecretSet{Version: version, Values: map[string]string{}}
	for _, s := range list {
		plain, err := m.key.Open(about(app, s.Name), s.Sealed)
		if err != nil {
			return nil, err
		}
		set.Values[s.Name] = string(plain)
	}
	return set, nil
}

// withSecrets puts the App's secrets, and nobody else's, into a request that makes a Machine or changes it.
func (m *Market) withSecrets(ctx context.Context, app gondola.AppName, req *gondola.CreateRequest) error {
	set, err := m.secretsOf(ctx, app)
	if err != nil {
		return err
	}
	var x gondola.CreateExtension
	if req.Gondola != nil {
		x = *req.Gondola
	}
	if x.Secrets = set; set == nil && req.Gondola == nil {
		return nil
	}
	req.Gondola = &x
	return nil
}

// refreshSecrets gives the worker of a Machine that is about to start the App's secrets of now.
func (m *Market) refreshSecrets(ctx context.Context, w Worker, ref gondola.Ref) error {
	set, err := m.secretsOf(ctx, ref.App)
	if err != nil || set == nil {
		return err
	}
	if err := w.PutSecrets(ctx, ref, *set); err != nil && !errors.Is(err, gondola.ErrUnsupported) {
		return fmt.Errorf("give machine %s its secrets: %w", ref.ID, err)
	}
	return nil
}

// PutSecrets implements gondola.Files. The next start by way of this server puts the App's in their place, if it has any.
func (m *Market) PutSecrets(ctx context.Context, ref gondola.Ref, set gondola.SecretSet) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.PutSecrets(ctx, ref, set) })
}
