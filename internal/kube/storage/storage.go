// Package storage gives the PersistentVolumeClaims of a cluster their Volumes: the part that a CSI driver's sidecars (provisioner, resizer,
// snapshotter) have elsewhere.
//
// It makes a Volume and its PersistentVolume for each claim of a StorageClass of ours, in the region that the scheduler chose, deletes or
// retains them, extends them while they are in use, takes snapshots and makes claims from them, and tells the scheduler how much room the
// regions have. It speaks to the platform only through gondola's contracts and never looks at Pods: mounting is the provider's.
//
// Everything is level-triggered. What is to be made on the platform has an id that is derived from its Kubernetes object's UID, so doing it
// again finds what is there; a finalizer goes before it and stays until it is undone.
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"gondola"
	"gondola/internal/kube/translate"
)

// Driver is the name of our provisioner.
const Driver = translate.VolumeDriver

// Config says what a Controller looks after.
type Config struct {
	Cluster string                    // as the provider has it: claims of a namespace have their Volumes in its App
	Regions map[string]gondola.Region // node → region; Volumes are made in these regions only

	REST    *rest.Config // as a user with Rules
	Volumes gondola.Volumes
	Apps    Apps
	// Room returns the bytes that the largest new Volume of a region can have; false where that is not known. If nil, it never is.
	Room func(gondola.Region) (int64, bool)
	Log  *slog.Logger // If nil, slog.Default.
}

// Apps are those of the cluster's namespaces, in which Pods live as well: the provider has them.
type Apps interface {
	// EnsureApp makes sure that the App of a namespace is there.
	EnsureApp(ctx context.Context, namespace string) error
	// DropApp deletes the App of a namespace that is gone, unless Volumes or snapshots are left in it.
	DropApp(ctx context.Context, namespace string) error
}

// Controller does it. Make it with New.
type Controller struct {
	cfg      Config
	log      *slog.Logger
	client   kubernetes.Interface
	dynamic  dynamic.Interface
	recorder record.EventRecorder
	queue    workqueue.TypedRateLimitingInterface[item]

	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	nodes   corelisters.NodeLister
	classes storagelisters.StorageClassLister

	mu       sync.Mutex
	contents cache.GenericLister // nil until the CRDs are served
	refused  map[gondola.Region]refusal
}

// item is something to look at.
type item struct{ kind, namespace, name string }

// Kinds of items.
const (
	kindClaim    = "claim"
	kindVolume   = "volume"
	kindNode     = "node"
	kindCapacity = "capacity" // one for all
	kindSnapshot = "snapshot"
	kindContent  = "content"
)

// New returns a Controller that does nothing until Run. ErrInvalid names what is missing in cfg.
func New(cfg Config) (*Controller, error) {
	if cfg.Cluster == "" || cfg.REST == nil || cfg.Volumes == nil || cfg.Apps == nil || len(cfg.Regions) == 0 {
		return nil, gondola.Errorf(gondola.ErrInvalid, "storage of cluster %q lacks a name, REST, Volumes, Apps or Regions", cfg.Cluster)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.REST = rest.CopyConfig(cfg.REST)
	if cfg.REST.QPS == 0 && cfg.REST.RateLimiter == nil {
		cfg.REST.QPS = -1
	}
	c := &Controller{cfg: cfg, log: cfg.Log, refused: map[gondola.Region]refusal{}}
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[item](200*time.Millisecond, 30*time.Second))
	var err error
	if c.client, err = kubernetes.NewForConfig(cfg.REST); err != nil {
		return nil, fmt.Errorf("storage of cluster %s: %w", cfg.Cluster, err)
	}
	if c.dynamic, err = dynamic.NewForConfig(cfg.REST); err != nil {
		return nil, fmt.Errorf("storage of cluster %s: %w", cfg.Cluster, err)
	}
	return c, nil
}

func (c *Controller) String() string { return "storage of cluster " + c.cfg.Cluster }

// workers is how many objects are worked on at the same time: making a Volume may take seconds.
const workers = 8

// review is how often what is bound is compared with the platform, on which somebody else may have deleted a Volume or a snapshot.
const review = time.Minute

// Run looks after the cluster's claims until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: c.client.CoreV1().Events("")})
	c.recorder = events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: Driver})

	factory := informers.NewSharedInformerFactory(c.client, 0)
	synced := c.watch(factory)
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.watchSnapshots(ctx) })
	g.Go(func() error { c.reviews(ctx); return nil })
	for range workers {
		g.Go(func() error { c.work(ctx); return nil })
	}
	g.Go(func() error { <-ctx.Done(); c.queue.ShutDown(); return nil })
	return g.Wait()
}

// watch lets changes of built-in objects put their items into the queue.
func (c *Controller) watch(factory informers.SharedInformerFactory) []cache.InformerSynced {
	core, storage := factory.Core().V1(), factory.Storage().V1()
	c.claims, c.volumes, c.nodes = core.PersistentVolumeClaims().Lister(), core.PersistentVolumes().Lister(), core.Nodes().Lister()
	c.classes = storage.StorageClasses().Lister()
	var synced []cache.InformerSynced
	follow := func(inf cache.SharedIndexInformer, items func(obj any) []item) {
		synced = append(synced, inf.HasSynced)
		_, _ = inf.AddEventHandler(c.handler(items))
	}
	follow(core.PersistentVolumeClaims().Informer(), func(obj any) []item {
		o := obj.(*corev1.PersistentVolumeClaim)
		return []item{{kindClaim, o.Namespace, o.Name}}
	})
	follow(core.PersistentVolumes().Informer(), func(obj any) []item {
		o := obj.(*corev1.PersistentVolume)
		if !ours(o) {
			return nil
		}
		out := []item{{kindVolume, "", o.Name}}
		if r := o.Spec.ClaimRef; r != nil {
			out = append(out, item{kindClaim, r.Namespace, r.Name})
		}
		return out
	})
	follow(core.Nodes().Informer(), func(obj any) []item { return []item{{kindNode, "", obj.(*corev1.Node).Name}} })
	follow(storage.StorageClasses().Informer(), func(obj any) []item {
		return append(c.claimsOf(obj.(*storagev1.StorageClass).Name), item{kind: kindCapacity})
	})
	return synced
}

// handler puts the items of whatever is added, changed or deleted into the queue.
func (c *Controller) handler(items func(obj any) []item) cache.ResourceEventHandler {
	add := func(obj any) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		for _, it := range items(obj) {
			c.queue.Add(it)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }, DeleteFunc: add}
}

// watchSnapshots follows VolumeSnapshots and their contents once the API server serves them.
func (c *Controller) watchSnapshots(ctx context.Context) error {
	if !c.served(ctx) {
		return nil
	}
	factory := dynamicinformer.NewDynamicSharedInformerFactory(c.dynamic, 0)
	snapshots, contents := factory.ForResource(snapshotResource), factory.ForResource(contentResource)
	_, _ = snapshots.Informer().AddEventHandler(c.handler(c.snapshotItems))
	_, _ = contents.Informer().AddEventHandler(c.handler(c.contentItems))
	c.mu.Lock()
	c.contents = contents.Lister()
	c.mu.Unlock()
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

// reviews looks at every bound claim, Volume and snapshot again from time to time, and at the room of the regions more often.
func (c *Controller) reviews(ctx context.Context) {
	bound, room := time.NewTicker(review), time.NewTicker(5*time.Second)
	defer bound.Stop()
	defer room.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-room.C:
			c.queue.Add(item{kind: kindCapacity})
		case <-bound.C:
			c.reviewBound()
		}
	}
}

func (c *Controller) reviewBound() {
	volumes, _ := c.volumes.List(everything)
	for _, pv := range volumes {
		if ours(pv) {
			c.queue.Add(item{kindVolume, "", pv.Name})
		}
	}
	c.mu.Lock()
	lister := c.contents
	c.mu.Unlock()
	if lister == nil {
		return
	}
	contents, _ := lister.List(everything)
	for _, o := range contents {
		c.queue.Add(item{kindContent, "", o.(*unstructured.Unstructured).GetName()})
	}
}

func (c *Controller) work(ctx context.Context) {
	for {
		it, quit := c.queue.Get()
		if quit {
			return
		}
		c.step(ctx, it)
		c.queue.Done(it)
	}
}

// laterError asks to be tried again though its reason has been told already.
type laterError struct{ error }

func (e laterError) Unwrap() error { return e.error }

// step reconciles one item and decides when to look again.
func (c *Controller) step(ctx context.Context, it item) {
	again, err := c.reconcile(ctx, it)
	var told laterError
	switch {
	case err != nil && ctx.Err() == nil:
		if !errors.As(err, &told) {
			c.log.Warn("storage: will be tried again", "kind", it.kind, "namespace", it.namespace, "name", it.name, "err", err)
		}
		c.queue.AddRateLimited(it)
	case again > 0:
		c.queue.Forget(it)
		c.queue.AddAfter(it, again)
	default:
		c.queue.Forget(it)
	}
}

// reconcile takes the next steps for an item. It returns after which time to look again though nothing changes; zero: not.
func (c *Controller) reconcile(ctx context.Context, it item) (time.Duration, error) {
	switch it.kind {
	case kindClaim:
		return c.claim(ctx, it.namespace, it.name)
	case kindVolume:
		return c.volume(ctx, it.name)
	case kindNode:
		return 0, c.node(ctx, it.name)
	case kindCapacity:
		return 0, c.capacity(ctx)
	case kindSnapshot:
		return c.snapshot(ctx, it.namespace, it.name)
	case kindContent:
		return c.content(ctx, it.name)
	}
	return 0, fmt.Errorf("nothing is known of the kind %q", it.kind)
}
