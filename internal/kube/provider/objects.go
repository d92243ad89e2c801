package provider

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// objects keeps the ConfigMaps and Secrets that a node's Pods name, each by a watch of its own: the Node authorizer lets a node read only
// those, one at a time.
type objects struct {
	client  kubernetes.Interface
	changed func(uids []types.UID) // called when an object that these Pods name has changed

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	watched map[objectKey]*object
	wg      sync.WaitGroup
}

type objectKey struct {
	kind            string // "configmap" or "secret"
	namespace, name string
}

// object is one watched object. The fields below are guarded by objects.mu.
type object struct {
	value  runtime.Object // nil: it does not exist
	known  chan struct{}  // closes when value means something
	pods   map[types.UID]bool
	cancel context.CancelFunc
}

func newObjects(ctx context.Context, client kubernetes.Interface, changed func([]types.UID)) *objects {
	return &objects{client: client, changed: changed, ctx: ctx, watched: map[objectKey]*object{}}
}

// hold makes the Pod's interest exactly these keys; none drops it.
func (o *objects) hold(uid types.UID, keys map[objectKey]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k := range keys {
		w, ok := o.watched[k]
		if !ok {
			ctx, cancel := context.WithCancel(o.ctx)
			w = &object{known: make(chan struct{}), pods: map[types.UID]bool{}, cancel: cancel}
			o.watched[k] = w
			o.wg.Go(func() { o.follow(ctx, k, w) })
		}
		w.pods[uid] = true
	}
	for k, w := range o.watched {
		if w.pods[uid] && !keys[k] {
			if delete(w.pods, uid); len(w.pods) == 0 {
				w.cancel()
				delete(o.watched, k)
			}
		}
	}
}

// get returns an object that is held, nil if it does not exist. It waits for the first answer of the API server.
func (o *objects) get(ctx context.Context, k objectKey) (runtime.Object, error) {
	o.mu.Lock()
	w, ok := o.watched[k]
	o.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%s %s/%s is not watched", k.kind, k.namespace, k.name)
	}
	select {
	case <-w.known:
	case <-ctx.Done():
		return nil, fmt.Errorf("read %s %s/%s: %w", k.kind, k.namespace, k.name, ctx.Err())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return w.value, nil
}

// follow keeps one object current until ctx ends.
func (o *objects) follow(ctx context.Context, k objectKey, w *object) {
	const first = 10 * time.Millisecond // the Node authorizer may learn of the Pod a moment later than we
	wait := first
	for ctx.Err() == nil {
		if err := o.listAndWatch(ctx, k, w); err == nil {
			wait = first
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			wait = min(2*wait, 10*time.Second)
		}
	}
}

func (o *objects) listAndWatch(ctx context.Context, k objectKey, w *object) error {
	version, err := o.read(ctx, k, w)
	if err != nil {
		return err
	}
	opts := metav1.ListOptions{FieldSelector: "metadata.name=" + k.name, ResourceVersion: version, AllowWatchBookmarks: true}
	var stream watch.Interface
	if k.kind == "secret" {
		stream, err = o.client.CoreV1().Secrets(k.namespace).Watch(ctx, opts)
	} else {
		stream, err = o.client.CoreV1().ConfigMaps(k.namespace).Watch(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer stream.Stop()
	for e := range stream.ResultChan() {
		switch e.Type {
		case watch.Added, watch.Modified:
			o.set(w, e.Object)
		case watch.Deleted:
			o.set(w, nil)
		case watch.Error:
			return apierrors.FromObject(e.Object)
		case watch.Bookmark:
		}
	}
	return nil
}

// read lists the one object and returns the version to watch from.
func (o *objects) read(ctx context.Context, k objectKey, w *object) (string, error) {
	opts := metav1.ListOptions{FieldSelector: "metadata.name=" + k.name}
	if k.kind == "secret" {
		list, err := o.client.CoreV1().Secrets(k.namespace).List(ctx, opts)
		if err != nil {
			return "", err
		}
		if len(list.Items) == 0 {
			o.set(w, nil)
		} else {
			o.set(w, &list.Items[0])
		}
		return list.ResourceVersion, nil
	}
	list, err := o.client.CoreV1().ConfigMaps(k.namespace).List(ctx, opts)
	if err != nil {
		return "", err
	}
	if len(list.Items) == 0 {
		o.set(w, nil)
	} else {
		o.set(w, &list.Items[0])
	}
	return list.ResourceVersion, nil
}

func (o *objects) set(w *object, value runtime.Object) {
	o.mu.Lock()
	first := false
	select {
	case <-w.known:
	default:
		first = true
		close(w.known)
	}
	same := !first && version(w.value) == version(value)
	w.value = value
	var uids []types.UID
	for uid := range w.pods {
		uids = append(uids, uid)
	}
	o.mu.Unlock()
	if !first && !same {
		o.changed(uids)
	}
}

func version(obj runtime.Object) string {
	switch v := obj.(type) {
	case *corev1.Secret:
		return v.ResourceVersion
	case *corev1.ConfigMap:
		return v.ResourceVersion
	}
	return ""
}
