package gondola

import (
	"context"
	"encoding/base64"
	"regexp"
	"strings"
	"time"
)

// AppSecret is a secret of an App. The Value is there only where it was asked for.
type AppSecret struct {
	Name      string    `json:"name"`
	Digest    string    `json:"digest"` // of name and value, by the server's key: equal as long as the value and the key are
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Value     string    `json:"value,omitempty"`
}

// SecretsQuery says how to read secrets.
type SecretsQuery struct {
	MinVersion uint64 // ErrPrecondition while the App's secrets have a lower version
	Show       bool   // with values
}

// SecretsUpdate is the answer to a change of an App's secrets: those that were set, and the version that all of them have since.
type SecretsUpdate struct {
	Secrets []AppSecret `json:"secrets"`
	Version uint64      `json:"version"`
}

// SecretSet is all secrets of an App as of one version, in clear. A server gives it to the workers of the App's Machines; it is in no answer.
type SecretSet struct {
	Version uint64            `json:"version"`
	Values  map[string]string `json:"values"`
}

// Secrets keeps the secrets of Apps: variables and files that Machines see and nobody else does. Every change makes the App's version of them
// one higher. A Machine that runs sees it with its next start.
//
// Every method returns ErrNotFound for an unknown App.
type Secrets interface {
	// ListSecrets returns an App's secrets by name.
	ListSecrets(ctx context.Context, app AppName, q SecretsQuery) ([]AppSecret, error)
	Secret(ctx context.Context, app AppName, name string, q SecretsQuery) (AppSecret, error)
	// SetSecret sets one; the update has it alone.
	SetSecret(ctx context.Context, app AppName, name, value string) (SecretsUpdate, error)
	// DeleteSecret removes one, ErrNotFound if it is not there.
	DeleteSecret(ctx context.Context, app AppName, name string) (SecretsUpdate, error)
	// UpdateSecrets sets several at once and removes those whose value is nil, or changes nothing. One that is to be removed may be gone.
	UpdateSecrets(ctx context.Context, app AppName, values map[string]*string) (SecretsUpdate, error)
	// RenewSecretsKey seals all secrets of all Apps with a new key and forgets the old one. It changes no version. Doing it again is harmless.
	RenewSecretsKey(ctx context.Context) error
}

// Bounds of an App's secrets. Together they go into the environment of a process, where a variable and all of them have bounds of the kernel's.
const (
	MaxSecretName  = 255
	MaxSecretValue = 64 << 10 // bytes
	MaxSecrets     = 300      // of an App
	MaxSecretBytes = 1 << 20  // of all values of an App
)

var secretNameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// CheckSecret returns an ErrInvalid that says why there can be no secret of that name and value, or nil. It never repeats the value.
func CheckSecret(name string, value *string) error {
	switch {
	case len(name) > MaxSecretName || !secretNameRE.MatchString(name):
		return Errorf(ErrInvalid, "secret name %.80q: use 1 to %d letters, digits and underscores, no digit first", name, MaxSecretName)
	case strings.HasPrefix(strings.ToUpper(name), "FLY_"):
		return Errorf(ErrInvalid, "secret name %q: names that begin with FLY_ are the platform's own", name)
	case value == nil:
		return nil
	case len(*value) > MaxSecretValue:
		return Errorf(ErrInvalid, "the value of secret %s has %d bytes; at most %d are allowed", name, len(*value), MaxSecretValue)
	case strings.Contains(*value, "\x00"):
		return Errorf(ErrInvalid, "the value of secret %s has a zero byte, which no variable can have: set it as base64, for a file", name)
	}
	return nil
}

// WantedSecrets returns the names of the secrets that a Config names: variables of its containers, and files. all says that it gets every
// secret as a variable too: a plain Machine does, one of several containers gets only what it names.
func (c *Config) WantedSecrets() (names []string, all bool) {
	for _, k := range c.AllContainers() {
		for _, s := range k.Secrets {
			names = append(names, s.Name)
		}
		for _, f := range k.Files {
			if f.SecretName != "" {
				names = append(names, f.SecretName)
			}
		}
	}
	return names, len(c.Containers) == 0
}

// Check returns an ErrPrecondition for the first secret that a Config of the App names and that the set, which may be nil, does not have, and an
// ErrInvalid for one that is to become a file and is not base64.
func (s *SecretSet) Check(app AppName, c *Config) error {
	names, _ := c.WantedSecrets()
	for _, name := range names {
		if s == nil {
			s = &SecretSet{}
		}
		if _, ok := s.Values[name]; !ok {
			return Errorf(ErrPrecondition, "secret not found: the config names secret %q, which app %s does not have: set it with gondola secrets set", name, app)
		}
	}
	for _, k := range c.AllContainers() {
		for _, f := range k.Files {
			if f.SecretName == "" {
				continue
			}
			if _, err := base64.StdEncoding.DecodeString(s.Values[f.SecretName]); err != nil {
				return Errorf(ErrInvalid, "container %s: file %s: secret %q is not base64, as the contents of a file have to be", k.Name, f.GuestPath, f.SecretName)
			}
		}
	}
	return nil
}

// For returns the values that a Config's Machine sees; none for a nil set.
func (s *SecretSet) For(c *Config) map[string]string {
	if s == nil {
		return nil
	}
	names, all := c.WantedSecrets()
	if all {
		return s.Values
	}
	values := map[string]string{}
	for _, name := range names {
		if v, ok := s.Values[name]; ok {
			values[name] = v
		}
	}
	return values
}
