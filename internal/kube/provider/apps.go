package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"gondola"
)

// EnsureApp makes sure that the App of a namespace is there. It takes no memory's word for it.
func (p *Provider) EnsureApp(ctx context.Context, namespace string) error {
	p.engine.forgetApp(namespace)
	return p.engine.ensureApp(ctx, namespace)
}

// DropApp deletes the App of a namespace that is gone, once nothing is in it: who deletes the last Volume or snapshot of an App calls it then. An App
// that is to stay is no error.
func (p *Provider) DropApp(ctx context.Context, namespace string) error {
	return p.engine.dropApp(ctx, namespace)
}

// ensureApp does it, and remembers that it is there.
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

// newDrops returns a queue of namespaces that are gone, whose Apps are to be dropped.
func newDrops() workqueue.TypedRateLimitingInterface[string] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, time.Minute))
}

// dropApps drops the Apps of namespaces that are gone until ctx ends; one that cannot be dropped is tried again.
func (e *engine) dropApps(ctx context.Context) {
	defer context.AfterFunc(ctx, e.drops.ShutDown)()
	for {
		namespace, quit := e.drops.Get()
		if quit {
			return
		}
		if err := e.dropApp(ctx, namespace); err != nil && ctx.Err() == nil {
			e.log.Warn("app of a namespace that is gone stays behind: trying again", "namespace", namespace, "err", err)
			e.drops.AddRateLimited(namespace)
		} else {
			e.drops.Forget(namespace)
		}
		e.drops.Done(namespace)
	}
}

// dropApp deletes the App of a namespace that is gone; its Pods went before it. One that still has Volumes or snapshots stays: they are retained, or
// those who reclaim them call DropApp after the last. So whichever comes last, the namespace's end or theirs, sees that nothing is left. That the
// namespace is gone, and not there again, is asked of the API server: nothing brings Machines back.
func (e *engine) dropApp(ctx context.Context, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	app := gondola.AppOfNamespace(e.cfg.Cluster, namespace)
	e.forgetApp(namespace)
	have, err := e.cfg.Apps.App(ctx, app)
	if errors.Is(err, gondola.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if have.Network != e.cfg.Network {
		return nil
	}
	if there, err := e.exists(ctx, namespace); there || err != nil { // as a rule; then nobody waits for a worker that is away
		return err
	}
	if kept, err := e.keeps(ctx, app); kept || err != nil {
		return err
	}
	if again, err := e.exists(ctx, namespace); again || err != nil {
		return err
	}
	err = e.cfg.Apps.DeleteApp(ctx, app)
	e.forgetApp(namespace)
	if errors.Is(err, gondola.ErrNotFound) {
		return nil
	}
	return err
}

func (e *engine) exists(ctx context.Context, namespace string) (bool, error) {
	_, err := e.admin.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("is namespace %s really gone: %w", namespace, err)
	}
	return true, nil
}

// keeps says whether an App holds data: a Volume, or a snapshot, which may have outlived its own. What a platform does not have is not there.
func (e *engine) keeps(ctx context.Context, app gondola.AppName) (bool, error) {
	volumes, err := e.cfg.Platform.ListVolumes(ctx, app)
	if len(volumes) > 0 || err != nil && !errors.Is(err, gondola.ErrUnsupported) {
		return true, err
	}
	snapshots, err := e.cfg.Platform.ListSnapshots(ctx, gondola.VolumeRef{App: app})
	if err != nil && !errors.Is(err, gondola.ErrUnsupported) {
		return true, err
	}
	return len(snapshots) > 0, nil
}
