package kube

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

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

// A Pod that was placed and deleted before its Machine was there must not keep the room from others, whether or not a Pod waited meanwhile.
func TestPlugin_WakesAPodWhenOneGoesThatNeverGotItsMachine(t *testing.T) {
	first, second := waitingPod("first", "3"), waitingPod("second", "3")
	client := fake.NewClientset(first, second)
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
	h := &handle{factory: informers.NewSharedInformerFactory(fake.NewClientset(pod), 0)}
	m := newMarket(nil, nil)
	p := &plugin{market: m, handle: h, now: time.Now, refused: map[types.UID]*refused{}}
	h.factory.Core().V1().Pods().Informer()
	h.factory.Start(t.Context().Done())
	h.factory.WaitForCacheSync(t.Context().Done())
	t.Cleanup(h.factory.Shutdown)

	p.refuse(pod, "fra")
	full, empty := offer("w", "fra", 100, 4000), offer("v", "ams", 3800, 4000)
	m.take(gondola.Change{Worker: "w", Offer: &full})
	m.take(gondola.Change{Worker: "v", Offer: &empty})
	m.take(gondola.Change{Worker: "v", Synced: true})
	if pods := p.hopeful(); len(pods) != 0 {
		t.Errorf("woken for room in another region: %v", pods)
	}
	full.Free.CPUMillis = 3000
	m.take(gondola.Change{Worker: "w", Offer: &full})
	if pods := p.hopeful(); len(pods) != 1 {
		t.Errorf("woken where there is room now: %v, want the Pod", pods)
	}
}
