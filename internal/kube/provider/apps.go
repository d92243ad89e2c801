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

// dropApp deletes the App of a namespace that is gone; its Pods went before it. One that still has Volumes stays: they are retained, or those
// who reclaim them delete it with the last. That the namespace is gone, and not there again, is asked of the API server: nothing brings Machines
// back.
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
	left, err := e.cfg.Platform.ListVolumes(ctx, app)
	if err != nil && !errors.Is(err, gondola.ErrUnsupported) {
		return err
	}
	if len(left) > 0 {
		return nil
	}
	_, err = e.admin.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("is namespace %s really gone: %w", namespace, err)
	}
	err = e.cfg.Apps.DeleteApp(ctx, app)
	e.forgetApp(namespace)
	if errors.Is(err, gondola.ErrNotFound) {
		return nil
	}
	return err
}
