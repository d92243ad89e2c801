package gondola

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"time"
)

// App is a named group of Machines in one network. The JSON is the API's App.
type App struct {
	ID           string       `json:"id"`
	Name         AppName      `json:"name"`
	Organization Organization `json:"organization"`
	Status       string       `json:"status"` // "deployed" with Machines, "pending" without
	MachineCount int          `json:"machine_count"`
	VolumeCount  int          `json:"volume_count"`
	Network      string       `json:"network"` // name of its network; Machines of different networks cannot reach each other
	NetworkID    uint32       `json:"-"`       // number of that network in 6PN addresses; given by the server
	CreatedAt    time.Time    `json:"-"`
}

// Organization owns Apps, and no network has Apps of two. A platform has one named Org; others are there as long as they have Apps.
type Organization struct {
	Name string `json:"name"`
	Slug string `json:"slug"`
}

// NewApp asks for an App.
type NewApp struct {
	Name    AppName `json:"name"`
	Org     string  `json:"org_slug,omitempty"` // If empty, the caller's own: Org for who belongs to none. Fly.io's API wants it named.
	Network string  `json:"network,omitempty"`  // If empty, DefaultNetwork, for organisations but Org "default-<slug>".
}

// DefaultNetwork is the network of an App of Org that names none.
const DefaultNetwork = "default"

var networkRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// ValidateNetwork returns an ErrInvalid where a network cannot be called so.
func ValidateNetwork(name string) error {
	if len(name) > 80 || !networkRE.MatchString(name) {
		return Errorf(ErrInvalid, "network %q: use 1 to 80 letters, digits and inner dashes, dots and underscores", clip(name))
	}
	return nil
}

var appNameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// Validate returns an ErrInvalid that says what is wrong with the name, or nil.
func (n AppName) Validate() error {
	switch {
	case n == "":
		return Errorf(ErrInvalid, "app name is missing: pass a name of lower-case letters, digits and dashes")
	case len(n) > 63:
		return Errorf(ErrInvalid, "app name %q has %d characters; at most 63 are allowed", clip(string(n)), len(n))
	case !appNameRE.MatchString(string(n)):
		return Errorf(ErrInvalid, "app name %q may only have lower-case letters, digits and inner dashes", clip(string(n)))
	}
	return nil
}

// AppOfNamespace returns the App in which the Pods of a cluster's namespace run: "<cluster>-<namespace>", cut and hashed where that is over
// 63 characters, so that different namespaces never share one.
func AppOfNamespace(cluster, namespace string) AppName {
	s := cluster + "-" + namespace
	if len(s) <= 63 {
		return AppName(s)
	}
	sum := sha256.Sum256([]byte(s))
	return AppName(s[:54] + "-" + hex.EncodeToString(sum[:4]))
}
