package provider

import (
	"context"
	"errors"
	"fmt"

	"gondola"
)

// ensureApp makes sure that the App of a namespace is there.
func (e *engine) ensureApp(ctx context.Context, namespace string) error {
	app := gondola.AppOfNamespace(e.cfg.Cluster, namespace)
	e.mu.Lock()
	known := e.apps[app]
	e.mu.Unlock()
	if known {
		return nil
	}
	have, err := e.cfg.Apps.App(ctx, app)
	if errors.Is(err, gondola.ErrNotFound) {
		have, err = e.cfg.Apps.CreateApp(ctx, gondola.NewApp{Name: app, Org: gondola.Org, Network: e.cfg.Network})
		if errors.Is(err, gondola.ErrNameTaken) { // somebody was faster
			have, err = e.cfg.Apps.App(ctx, app)
		}
	}
	if err != nil {
		return fmt.Errorf("app %s of namespace %s: %w", app, namespace, err)
	}
	if have.Network != e.cfg.Network {
		return gondola.Errorf(gondola.ErrConflict, "app %s of namespace %s is in network %q and not in the cluster's network %q: destroy or rename it", app, namespace, have.Network, e.cfg.Network)
	}
	e.mu.Lock()
	e.apps[app] = true
	e.mu.Unlock()
	return nil
}

func (e *engine) forgetApp(namespace string) {
	e.mu.Lock()
	delete(e.apps, gondola.AppOfNamespace(e.cfg.Cluster, namespace))
	e.mu.Unlock()
}

// dropApp deletes the App of a namespace that is gone; its Pods went before it. One that still has Volumes stays: they are retained, or those
// who reclaim them delete it with the last.
func (e *engine) dropApp(ctx context.Context, namespace string) {
	app := gondola.AppOfNamespace(e.cfg.Cluster, namespace)
	e.forgetApp(namespace)
	have, err := e.cfg.Apps.App(ctx, app)
	if err == nil && have.Network == e.cfg.Network {
		var left []gondola.Volume
		if left, err = e.cfg.Platform.ListVolumes(ctx, app); err == nil && len(left) > 0 {
			return
		}
		if err == nil || errors.Is(err, gondola.ErrUnsupported) {
			err = e.cfg.Apps.DeleteApp(ctx, app)
		}
	}
	if err != nil && !errors.Is(err, gondola.ErrNotFound) {
		e.log.Warn("app of a namespace that is gone stays behind", "app", app, "namespace", namespace, "err", err)
		return
	}
}
