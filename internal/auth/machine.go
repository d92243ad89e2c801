package auth

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"gondola"
)

type fromMachineKey struct{}

// FromMachines returns a handler for a listener that only pilots reach: whoever sends a request there is the Machine that gondola.MachineHeader
// names, and no token counts. Anywhere else the header says nothing.
func FromMachines(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), fromMachineKey{}, true)))
	})
}

// fromMachine says whether a request came through FromMachines.
func fromMachine(r *http.Request) bool { return r.Context().Value(fromMachineKey{}) != nil }

// itself returns a Machine that asks without a token, by its name "app/id": of itself it reaches what has Access.Itself, and nothing else.
// ErrUnauthorized.
func itself(name string) (Principal, error) {
	app, id, ok := strings.Cut(name, "/")
	if !ok || app == "" || id == "" {
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "%s %q: want app/id", gondola.MachineHeader, name)
	}
	return Principal{Name: "machine " + id, itself: true, apps: []gondola.AppName{gondola.AppName(app)}, limited: true,
		machines: []gondola.MachineID{gondola.MachineID(id)}, pinned: true}, nil
}

// Itself says whether p is a Machine that asks without a token.
func (p Principal) Itself() bool { return p.itself }

// clusterKeys begin the keys of metadata by which a cluster knows its Pods' Machines.
const clusterKeys = "kubernetes_"

// SetsMetadata returns ErrForbidden for a key of a Machine's metadata that p does not change, though it may others: a Machine by itself neither gets
// out of a network policy of its App nor passes for a Pod's.
func (p Principal) SetsMetadata(key string, policies []gondola.NetworkPolicy) error {
	selects := func(n gondola.NetworkPolicy) bool { _, by := n.Selector.Metadata[key]; return by }
	if p.itself && (strings.HasPrefix(key, clusterKeys) || slices.ContainsFunc(policies, selects)) {
		return gondola.Errorf(gondola.ErrForbidden, "metadata %q tells a cluster or network policies which machine this is: only a token changes it", key)
	}
	return nil
}
