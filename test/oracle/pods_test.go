package oracle_test

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// pods is what the API server tells of all Pods.
type pods struct {
	mu   sync.Mutex
	seen map[string]*seen // namespace/name
	news chan struct{}    // closed and replaced at every change
}

// seen is the newest of a Pod; one that is gone keeps what was told last.
type seen struct {
	pod  *corev1.Pod
	gone bool
}

func watchPods(client kubernetes.Interface, run func(func(context.Context) error)) *pods {
	p := &pods{seen: map[string]*seen{}, news: make(chan struct{})}
	factory := informers.NewSharedInformerFactory(client, 0)
	inf := factory.Core().V1().Pods().Informer()
	put := func(obj any, gone bool) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen[pod.Namespace+"/"+pod.Name] = &seen{pod, gone}
		close(p.news)
		p.news = make(chan struct{})
	}
	_, _ = inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { put(obj, false) }, UpdateFunc: func(_, obj any) { put(obj, false) }, DeleteFunc: func(obj any) { put(obj, true) }})
	run(func(ctx context.Context) error {
		inf.RunWithContext(ctx)
		return nil
	})
	return p
}

// look returns the newest of a Pod (nil: it was never seen) and a channel that closes when there is news of any.
func (p *pods) look(s side, name string) (*seen, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[string(s)+"/"+name], p.news
}
