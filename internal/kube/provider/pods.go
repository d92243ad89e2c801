package provider

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"gondola"
	"gondola/internal/kube/translate"
)

// engine makes Pods and Machines agree. Whatever changes puts the Pod's UID into the queue; a worker then looks at Pod and Machine as they are
// and takes the next step. Nothing depends on having seen a particular event.
type engine struct {
	cfg      Config
	log      *slog.Logger
	admin    kubernetes.Interface
	began    time.Time
	nodes    map[string]*node
	offers   *offers
	services corelisters.ServiceLister
	policies *policies
	pvcs     corelisters.PersistentVolumeClaimLister
	pvs      corelisters.PersistentVolumeLister
	queue    workqueue.TypedRateLimitingInterface[types.UID]
	drops    workqueue.TypedRateLimitingInterface[string] // namespaces that are gone

	mu   sync.Mutex
	pods map[types.UID]*tracked
	apps map[gondola.AppName]bool // that are known to exist

	images    []corev1.ContainerImage // of all workers, the largest first; imagesKey says of which offers
	imagesKey string
}

// tracked is what is known of one Pod. The fields up to the blank line are guarded by engine.mu; work belongs to the queue's worker, of
// which there is never more than one per UID.
type tracked struct {
	pod     *corev1.Pod // newest known; nil: never seen, or gone from the API
	machine *gondola.Machine
	worker  gondola.WorkerName // of the machine
	told    time.Time          // when the machine was heard of
	waitsOn gondola.MachineID  // that has a Volume which the Pod wants; empty: none has

	eviction  *translate.Failure // set: the Pod has to go
	hostPorts bool               // it was given the ports of its node that it asks for

	work work
}

// work is what the worker of a Pod remembers from step to step. All of it can be lost: the steps are then taken again, harmlessly.
type work struct {
	refused     time.Time // since when there is no room; zero: there is
	failure     *translate.Failure
	waiting     *translate.Waiting
	stopGrace   time.Duration // of the last stop that was sent; -1: none
	evicted     bool          // failure is an eviction
	stopSent    time.Time
	payload     string // digest of the payload that the Machine has
	changedAt   time.Time
	stale       bool // what the payload is made from could not be had the last time
	noteSeq     uint64
	noted       bool // noteSeq means something
	tries       int
	detailsAt   time.Time         // since when details wait to be reported; zero: none do
	renewed     bool              // the Machine was given other images, and the Pod's status told of no more than before
	refusedHere map[string]string // ephemeral container → why it cannot be run
	resizing    resizing
	began       time.Time  // when the Pod was first seen here
	span        trace.Span // of the Pod's way to Running; nil: it is over, or was never followed
	createdHere bool       // this process made the Machine: all its notes are news
}

func newEngine(cfg Config, log *slog.Logger, admin kubernetes.Interface) *engine {
	return &engine{
		cfg: cfg, log: log, admin: admin, began: time.Now(), nodes: map[string]*node{}, offers: newOffers(),
		drops: newDrops(), pods: map[types.UID]*tracked{}, apps: map[gondola.AppName]bool{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](200*time.Millisecond, 20*time.Second)),
	}
}

func (e *engine) trackLocked(uid types.UID) *tracked {
	t, ok := e.pods[uid]
	if !ok {
		t = &tracked{work: work{stopGrace: -1, began: time.Now()}}
		e.pods[uid] = t
	}
	return t
}

// look returns what is known of a Pod now.
func (e *engine) look(uid types.UID) (pod *corev1.Pod, m *gondola.Machine, w *work) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, ok := e.pods[uid]
	if !ok {
		return nil, nil, nil
	}
	return t.pod, t.machine, &t.work
}

// putPod takes a newer version of a Pod.
func (e *engine) putPod(pod *corev1.Pod) {
	e.mu.Lock()
	t := e.trackLocked(pod.UID)
	if t.pod == nil || newer(pod, t.pod) {
		t.pod = pod
	}
	e.mu.Unlock()
	e.policies.touch()
	e.queue.Add(pod.UID)
}

// losePod notes that the Pod is gone from the API.
func (e *engine) losePod(pod *corev1.Pod) {
	e.mu.Lock()
	if t, ok := e.pods[pod.UID]; ok {
		t.pod = nil
	}
	e.mu.Unlock()
	e.policies.touch()
	e.queue.Add(pod.UID)
}

// renew takes a newer version of a Pod that is being looked at.
func (e *engine) renew(pod *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t, ok := e.pods[pod.UID]; ok && t.pod != nil && newer(pod, t.pod) {
		t.pod = pod
	}
}

// podsNamed lists the Pods of a node that have a name: one, or more while one is being made again under its name.
func (e *engine) podsNamed(node, namespace, name string) (out []*corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.pods {
		if t.pod != nil && t.pod.Spec.NodeName == node && t.pod.Namespace == namespace && t.pod.Name == name {
			out = append(out, t.pod)
		}
	}
	return out
}

// newer compares resource versions, which are numbers that grow (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).
func newer(a, b *corev1.Pod) bool {
	x, errX := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, errY := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return errX != nil || errY != nil || x >= y
}

// podInformer watches the Pods of one node with the node's own identity.
func (e *engine) podInformer(n *node) cache.SharedIndexInformer {
	selector := fields.OneTermEqualSelector("spec.nodeName", n.Name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return n.client.CoreV1().Pods("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return n.client.CoreV1().Pods("").Watch(ctx, o)
		},
	}
	inf := cache.NewSharedIndexInformer(lw, &corev1.Pod{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	_, _ = inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { e.putPod(obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) {
			if o := old.(*corev1.Pod); o.UID != obj.(*corev1.Pod).UID { // deleted and made again under one name, seen as one change
				e.losePod(o)
			}
			e.putPod(obj.(*corev1.Pod))
		},
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				e.losePod(pod)
			}
		},
	})
	return inf
}

// workers is how many Pods are worked on at the same time.
const workers = 16

// work takes Pods from the queue until ctx ends.
func (e *engine) work(ctx context.Context) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				uid, quit := e.queue.Get()
				if quit {
					return
				}
				e.step(ctx, uid)
				e.queue.Done(uid)
			}
		})
	}
	<-ctx.Done()
	e.queue.ShutDown()
	wg.Wait()
}

// step reconciles one Pod and decides when to look again.
func (e *engine) step(ctx context.Context, uid types.UID) {
	again, err := e.reconcile(ctx, uid)
	switch {
	case err != nil && ctx.Err() == nil:
		e.log.Warn("pod: will be tried again", "uid", uid, "try", e.queue.NumRequeues(uid)+1, "err", err)
		e.queue.AddRateLimited(uid)
	case again > 0:
		e.queue.Forget(uid)
		e.queue.AddAfter(uid, again)
	default:
		e.queue.Forget(uid)
	}
}

// reconcile takes the next step for a Pod. It returns after which time to look again though nothing changes; zero: not.
func (e *engine) reconcile(ctx context.Context, uid types.UID) (time.Duration, error) {
	pod, m, w := e.look(uid)
	if w == nil {
		return 0, nil
	}
	if pod == nil {
		return e.collect(ctx, uid, m, w)
	}
	n, ok := e.nodes[pod.Spec.NodeName]
	if !ok {
		return 0, nil
	}
	if n.library != nil {
		pod = n.library.fresh(pod)
		e.renew(pod)
		again, err := e.next(ctx, n, pod, m, w)
		return sooner(again, n.library.watch(pod, m)), err
	}
	return e.next(ctx, n, pod, m, w)
}

// next takes the step that Pod and Machine are at.
func (e *engine) next(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	if m != nil {
		e.tell(n, pod, m, w)
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return e.terminate(ctx, n, pod, m, w)
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return e.settle(ctx, n, pod, m, w)
	case m == nil || m.State == gondola.Destroyed:
		return e.launch(ctx, n, pod, m, w)
	default:
		return e.keep(ctx, n, pod, m, w)
	}
}
