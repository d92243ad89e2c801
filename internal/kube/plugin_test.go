package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"gondola"
)

// handle is the scheduler, as far as waking Pods needs it.
type handle struct {
	fwk.Handle
	factory   informers.SharedInformerFactory
	activated chan string
}

func (h *handle) SharedInformerFactory() informers.SharedInformerFactory { return h.factory }

func (h *handle) Activate(_ klog.Logger, pods map[string]*corev1.Pod) {
	for name := range pods {
		h.activated <- name
	}
}

func waitingPod(name string, cpus string) *corev1.Pod {
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpus), corev1.ResourceMemory: resource.MustParse("64Mi")}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: requests}}}}}
}

// newPlugin returns a plugin that wakes nobody by itself, in a cluster with these Pods.
func newPlugin(t *testing.T, pods ...*corev1.Pod) *plugin {
	t.Helper()
	client := fake.NewClientset()
	for _, pod := range pods {
		if err := client.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	h := &handle{factory: informers.NewSharedInformerFactory(client, 0)}
	h.factory.Core().V1().Pods().Informer()
	h.factory.Start(t.Context().Done())
	h.factory.WaitForCacheSync(t.Context().Done())
	t.Cleanup(h.factory.Shutdown)
	return &plugin{market: newMarket(nil, nil), handle: h, now: time.Now, refused: map[types.UID]*refused{}}
}

// tell is the only worker of a region telling what it has free.
func (p *plugin) tell(region gondola.Region, freeCPU int64) {
	o := offer(string(region), region, freeCPU, 4000)
	p.market.take(gondola.Change{Worker: o.Worker, Offer: &o})
	p.market.take(gondola.Change{Worker: o.Worker, Synced: true})
}

// woken returns the names of the Pods that are woken, sorted.
func (p *plugin) woken() string {
	pods, _ := p.hopeful()
	return strings.ReplaceAll(strings.Join(slices.Sorted(maps.Keys(pods)), " "), "default/", "")
}

// try is the scheduler trying a Pod, as far as its filters.
func (p *plugin) try(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if _, status := p.PreFilter(t.Context(), framework.NewCycleState(), pod, nil); !status.IsSuccess() {
		t.Fatal(status)
	}
}

// A Pod that was placed and deleted before its Machine was there must not keep the room from others, whether or not a Pod waited meanwhile.
func TestPlugin_WakesAPodWhenOneGoesThatNeverGotItsMachine(t *testing.T) {
	first, second := waitingPod("first", "3"), waitingPod("second", "3")
	client, watching := fake.NewClientset(first, second), make(chan struct{})
	begun := sync.OnceFunc(func() { close(watching) })
	client.PrependWatchReactor("pods", func(a clienttesting.Action) (bool, watch.Interface, error) {
		defer begun()
		w, err := client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		return true, w, err
	})
	h := &handle{factory: informers.NewSharedInformerFactory(client, 0), activated: make(chan string, 10)}
	m := newMarket(nil, nil)
	made, err := m.plugin(t.Context(), nil, h)
	if err != nil {
		t.Fatal(err)
	}
	p := made.(*plugin)
	h.factory.Start(t.Context().Done())
	h.factory.WaitForCacheSync(t.Context().Done())
	t.Cleanup(h.factory.Shutdown)
	<-watching // of the fake, a watch that begins later than a change does not tell of it

	o := offer("w", "fra", 3800, 4000)
	m.take(gondola.Change{Worker: "w", Offer: &o})
	m.take(gondola.Change{Worker: "w", Synced: true})
	m.reserve("first", "fra", podRequests(first), time.Now())
	p.refuse(second, "fra")
	if err := client.CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case name := <-h.activated:
		if name != "default/second" {
			t.Errorf("%s was woken, want default/second", name)
		}
	case <-time.After(3 * time.Second):
		t.Error("nobody was woken")
	}
}

func TestPlugin_WakesNobodyForRoomInARegionThatDidNotRefuse(t *testing.T) {
	pod := waitingPod("pod", "3")
	p := newPlugin(t, pod)
	p.refuse(pod, "fra")
	p.tell("fra", 100)
	p.tell("ams", 3800)
	if got := p.woken(); got != "" {
		t.Errorf("woken for room in another region: %s", got)
	}
	p.tell("fra", 3000)
	if got := p.woken(); got != "pod" {
		t.Errorf("woken where there is room now: %q, want the Pod", got)
	}
}

// What is woken is what there is room for, the most important first; what was woken keeps its room until it was tried.
func TestPlugin_WakesAsManyPodsAsThereIsRoomFor(t *testing.T) {
	now := time.Now()
	var pods []*corev1.Pod
	for i, priority := range []int32{0, 0, 0, 100, 0, 0} {
		pod := waitingPod(fmt.Sprint("pod-", i), "1")
		pod.CreationTimestamp, pod.Spec.Priority = metav1.NewTime(now.Add(-time.Duration(i)*time.Hour)), &priority
		pods = append(pods, pod)
	}
	huge := waitingPod("huge", "64")
	p := newPlugin(t, append(pods, huge)...)
	for _, pod := range append(pods, huge) {
		p.refuse(pod, "fra")
	}
	p.tell("fra", 2100)
	if got := p.woken(); got != "pod-3 pod-5" {
		t.Errorf("woken for room for two: %q, want the one of the highest priority and the oldest", got)
	}
	if got := p.woken(); got != "" {
		t.Errorf("woken for the same room: %q, want nobody", got)
	}
	p.tell("fra", 3100)
	if got := p.woken(); got != "pod-4" {
		t.Errorf("woken for room for one more: %q, want the next", got)
	}

	// One has got its place, one was too late, of one nothing is heard.
	p.try(t, pods[3])
	delete(p.refused, pods[3].UID)
	p.market.reserve("pod-3", "fra", podRequests(pods[3]), time.Now())
	p.try(t, pods[5])
	p.refuse(pods[5], "fra")
	p.now = func() time.Time { return time.Now().Add(lookAgain) }
	p.tell("fra", 2100)
	if got := p.woken(); got != "pod-1 pod-2" { // and one more than fits, since pod-5 was woken in vain
		t.Errorf("woken: %q, want those that were not yet", got)
	}
}

// Pods that another plugin refuses in a region that has room are many, and have the first turn.
func TestPlugin_WakesWhoIsBehindPodsThatOtherPluginsRefuse(t *testing.T) {
	var pods []*corev1.Pod
	for i := range 100 {
		pods = append(pods, waitingPod(fmt.Sprintf("pod-%02d", i), "1"))
	}
	p := newPlugin(t, pods...)
	for _, pod := range pods {
		p.refuse(pod, "fra")
	}
	p.tell("fra", 1000)
	for looks, tried := 1, 0; ; looks++ {
		now, again := p.hopeful()
		for name := range now {
			tried++
			if name == "default/pod-99" {
				if looks > 10 || tried > 100 {
					t.Errorf("the last one was woken after %d looks and %d Pods", looks, tried)
				}
				return
			}
			p.try(t, now[name])
		}
		if len(now) == 0 || again != lookSoon {
			t.Fatalf("nobody is woken after %d of 100 were tried, next look within %v", tried, again)
		}
	}
}

// An event of Kubernetes wakes the Pods that it concerns, not all that wait.
func TestPlugin_WakesByEventsOnlyWhomTheyConcern(t *testing.T) {
	pod, other := waitingPod("pod", "3"), waitingPod("other", "3")
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "default"}}
	events, err := newPlugin(t).EventsToRegister(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		resource fwk.EventResource
		action   fwk.ActionType
		old, now any
		want     string // of pod and other
	}{
		"one is gone":           {fwk.Pod, fwk.Delete, other, nil, ""},
		"one wants less":        {fwk.Pod, fwk.UpdatePodScaleDown, other, other, "other"},
		"a claim is there":      {fwk.PersistentVolumeClaim, fwk.Add, nil, claim, "pod"},
		"a claim has changed":   {fwk.PersistentVolumeClaim, fwk.Update, claim, claim, "pod"},
		"a node may take Pods":  {fwk.Node, fwk.UpdateNodeTaint, nil, nil, "other pod"},
		"a node has more of it": {fwk.Node, fwk.UpdateNodeAllocatable, nil, nil, "other pod"},
	} {
		var woken []string
		for _, waits := range []*corev1.Pod{other, pod} {
			for _, e := range events {
				if e.Event.Resource != row.resource || e.Event.ActionType&row.action == 0 {
					continue
				}
				hint := fwk.Queue
				if e.QueueingHintFn != nil {
					if hint, err = e.QueueingHintFn(klog.Background(), waits, row.old, row.now); err != nil {
						t.Error(err)
					}
				}
				if hint == fwk.Queue {
					woken = append(woken, waits.Name)
				}
			}
		}
		if got := strings.Join(woken, " "); got != row.want {
			t.Errorf("%s: woken %q, want %q", name, got, row.want)
		}
	}
}

func TestPlugin_CountsNoMoreFreedThanAWorkerHas(t *testing.T) {
	victim, p := waitingPod("victim", "3"), newPlugin(t)
	p.tell("fra", 1000) // of 4
	node := framework.NewNodeInfo()
	node.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "fra", Labels: map[string]string{corev1.LabelTopologyRegion: "fra"}}})
	gone, err := framework.NewPodInfo(victim)
	if err != nil {
		t.Fatal(err)
	}
	for wants, fits := range map[string]bool{"4": true, "5": false} {
		state, pod := framework.NewCycleState(), waitingPod("pod", wants)
		if _, status := p.PreFilter(t.Context(), state, pod, nil); !status.IsSuccess() {
			t.Fatal(status)
		}
		for range 2 { // on two workers, of which one is left
			if status := p.RemovePod(t.Context(), state, pod, gone, node); !status.IsSuccess() {
				t.Fatal(status)
			}
		}
		if status := p.Filter(t.Context(), state, pod, node); status.IsSuccess() != fits {
			t.Errorf("a Pod of %s CPUs where Pods of 6 go from a worker of 4: %v", wants, status)
		}
	}
}
