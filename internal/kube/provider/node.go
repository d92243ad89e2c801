package provider

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	vknode "github.com/virtual-kubelet/virtual-kubelet/node"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	kubeversion "k8s.io/component-base/version"
	"k8s.io/kubernetes/pkg/kubelet/token"

	"gondola"
)

// node is one virtual node at work. It is the node.NodeProvider of virtual-kubelet's NodeController, which registers the Node, renews its
// Lease and sends its status.
type node struct {
	Node
	port     int
	client   kubernetes.Interface // as the node
	recorder record.EventRecorder
	objects  *objects
	tokens   *token.Manager
	engine   *engine
	dirty    chan struct{} // holds one token: object has changed
	library  *Library      // set: virtual-kubelet's own controllers run the node

	mu     sync.Mutex
	object *corev1.Node // as it should be told
}

// run registers the Node and keeps it until ctx ends.
func (n *node) run(ctx context.Context, registered func()) error {
	n.mu.Lock()
	n.object = n.build()
	object := n.object.DeepCopy()
	n.mu.Unlock()
	for ctx.Err() == nil {
		c, err := vknode.NewNodeController(n, object, n.client.CoreV1().Nodes(),
			vknode.WithNodeEnableLeaseV1(n.client.CoordinationV1().Leases(corev1.NamespaceNodeLease), vknode.DefaultLeaseDuration),
			vknode.WithNodeStatusUpdateErrorHandler(func(ctx context.Context, err error) error { return n.recreate(ctx, err) }))
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		go func() {
			select {
			case <-c.Ready():
				registered()
			case <-ctx.Done():
			}
		}()
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			n.engine.log.Warn("node could not be kept: trying again", "node", n.Name, "err", err)
			pause(ctx, time.Second)
		}
		object = n.current()
	}
	return nil
}

// recreate makes the Node again that somebody deleted.
func (n *node) recreate(ctx context.Context, err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	n.engine.log.Info("node was deleted: making it again", "node", n.Name)
	_, err = n.client.CoreV1().Nodes().Create(ctx, n.current(), metav1.CreateOptions{})
	return err
}

// Ping is never in trouble: what is, is in the Node's conditions.
func (n *node) Ping(ctx context.Context) error { return ctx.Err() }

// NotifyNodeStatus sends the newest Node after each change, until ctx ends.
func (n *node) NotifyNodeStatus(ctx context.Context, notify func(*corev1.Node)) {
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-n.dirty:
				notify(n.current())
			}
		}
	}()
}

// update tells the Node again if it has changed.
func (n *node) update() {
	n.mu.Lock()
	fresh := n.build()
	if n.object != nil {
		keepTimes(fresh, n.object)
		if equality.Semantic.DeepEqual(withoutHeartbeat(fresh), withoutHeartbeat(n.object)) {
			n.mu.Unlock()
			return
		}
	}
	n.object = fresh
	n.mu.Unlock()
	select {
	case n.dirty <- struct{}{}:
	default:
	}
}

func (n *node) current() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.object.DeepCopy()
}

func (n *node) allocatable() corev1.ResourceList {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.object == nil {
		return nil
	}
	return n.object.Status.Allocatable
}

// build makes the Node as it is now.
func (n *node) build() *corev1.Node {
	capacity, allocatable, workers := n.engine.region(n.Region)
	host := n.host()
	pods, disk := *resource.NewQuantity(int64(host.MaxMachines), resource.DecimalSI), *resource.NewQuantity(host.DiskBytes, resource.BinarySI)
	kubelet := kubeversion.Get().GitVersion
	o := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.labels()},
		Spec:       corev1.NodeSpec{ProviderID: "gondola://" + string(n.Region) + "/" + n.Name},
		Status: corev1.NodeStatus{
			Capacity:        resourceList(capacity, pods, disk),
			Allocatable:     resourceList(allocatable, pods, disk),
			Conditions:      nodeConditions(n.Region, workers, n.engine.offers.hosts(n.Region)),
			Images:          n.engine.nodeImages(),
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(n.port)}},
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: host.MachineID, SystemUUID: n.Name, BootID: host.BootID, KernelVersion: host.Kernel, OSImage: host.OSImage, OperatingSystem: "linux",
				Architecture: runtime.GOARCH, ContainerRuntimeVersion: host.Runtime, KubeletVersion: kubelet,
			},
		},
	}
	for _, a := range n.Addresses {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Name})
	for _, name := range append([]string{""}, n.engine.cfg.Drivers...) {
		o.Status.RuntimeHandlers = append(o.Status.RuntimeHandlers, corev1.NodeRuntimeHandler{Name: name,
			Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: new(bool), UserNamespaces: new(bool)}})
	}
	return o
}

// labels are those that the node gives itself.
func (n *node) labels() map[string]string {
	return map[string]string{
		corev1.LabelHostname: n.Name, corev1.LabelTopologyRegion: string(n.Region), corev1.LabelTopologyZone: string(n.Region),
		corev1.LabelOSStable: "linux", corev1.LabelArchStable: runtime.GOARCH, corev1.LabelInstanceTypeStable: "gondola-region",
	}
}

func resourceList(r gondola.Resources, pods, disk resource.Quantity) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:                     *resource.NewMilliQuantity(max(r.CPUMillis, 0), resource.DecimalSI),
		corev1.ResourceMemory:                  *resource.NewQuantity(max(r.MemoryBytes, 0), resource.BinarySI),
		corev1.ResourceEphemeralStorage:        disk,
		corev1.ResourcePods:                    pods,
		corev1.ResourceHugePagesPrefix + "2Mi": resource.Quantity{Format: resource.DecimalSI}, // no Machine gets any
		corev1.ResourceHugePagesPrefix + "1Gi": resource.Quantity{Format: resource.DecimalSI},
	}
}

// nodeConditions says whether the region works: it does while one of its workers answers.
func nodeConditions(region gondola.Region, workers int, hosts map[gondola.WorkerName]gondola.HostInfo) []corev1.NodeCondition {
	now := metav1.Now()
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "WorkersAnswer",
		Message: fmt.Sprintf("workers of region %s answer", region)}
	if workers == 0 {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "NoWorker", fmt.Sprintf("no worker of region %s answers", region)
	}
	out := append([]corev1.NodeCondition{ready}, pressureConditions(hosts)...)
	out = append(out, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "RouteCreated", Message: "Machines are routed"})
	for i := range out {
		out[i].LastHeartbeatTime, out[i].LastTransitionTime = now, now
	}
	return out
}

// keepTimes keeps the time of transition of conditions that are as they were.
func keepTimes(fresh, old *corev1.Node) {
	for i, c := range fresh.Status.Conditions {
		for _, was := range old.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status {
				fresh.Status.Conditions[i].LastTransitionTime = was.LastTransitionTime
			}
		}
	}
}

func withoutHeartbeat(n *corev1.Node) *corev1.Node {
	n = n.DeepCopy()
	for i := range n.Status.Conditions {
		n.Status.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	return n
}

// region returns what one node of a region has and what of it Pods of this cluster may take: all that is not taken by others. Several nodes
// of one region share it evenly.
func (e *engine) region(r gondola.Region) (capacity, allocatable gondola.Resources, workers int) {
	capacity, free, workers := e.offers.of(r)
	var own gondola.Resources
	e.mu.Lock()
	for _, t := range e.pods {
		if m := t.machine; m != nil && m.Region == r && m.Gondola != nil && m.State != gondola.Destroyed {
			own = own.Add(m.Gondola.Allocated)
		}
	}
	e.mu.Unlock()
	others := capacity.Sub(free).Sub(own)
	allocatable = capacity.Sub(gondola.Resources{CPUMillis: max(others.CPUMillis, 0), MemoryBytes: max(others.MemoryBytes, 0)})
	if share := e.share(r); share > 1 {
		capacity = gondola.Resources{CPUMillis: capacity.CPUMillis / share, MemoryBytes: capacity.MemoryBytes / share}
		allocatable = gondola.Resources{CPUMillis: allocatable.CPUMillis / share, MemoryBytes: allocatable.MemoryBytes / share}
	}
	return capacity, allocatable, workers
}

// tellCapacity updates the Nodes when capacity has changed and come to rest, until ctx ends.
func (e *engine) tellCapacity(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.offers.changed:
		}
		pause(ctx, settle)
		e.learnImages(ctx)
		for _, n := range e.nodes {
			n.update()
		}
	}
}
