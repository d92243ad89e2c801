package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"gondola"
	"gondola/internal/gondolatest"
	"gondola/internal/kube"
	"gondola/internal/kube/kubectl"
	"gondola/internal/kube/kubetest"
)

// A port that is taken is an error that names it, at once, and nothing is left running.
func TestRun_SaysThatItsPortIsTaken(t *testing.T) {
	kubetest.NeedNetNS(t)
	l, err := net.Listen("tcp", net.JoinHostPort(address.String(), "6443"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := kube.New(config(t, filepath.Join(t.TempDir(), "test")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = c.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "10.99.0.1:6443") || ctx.Err() != nil {
		t.Errorf("Run = %v, want soon an error that names 10.99.0.1:6443", err)
	}
}

func TestNew_RefusesWhatCannotBe(t *testing.T) {
	for want, change := range map[string]func(*kube.Config){
		"not loopback":      func(c *kube.Config) { c.Address = netip.MustParseAddr("127.0.0.1") },
		"at most one IPv6":  func(c *kube.Config) { c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("fd43::/108")} },
		"a name of its own": func(c *kube.Config) { c.Nodes = append(c.Nodes, c.Nodes[0]) },
		"no directory":      func(c *kube.Config) { c.Dir = "" },
	} {
		cfg := config(t, t.TempDir())
		change(&cfg)
		if _, err := kube.New(cfg); !errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want an ErrInvalid with %q", err, want)
		}
	}
}

// A cluster that is told to stop while it starts stops, wherever it is.
func TestCluster_StopsWhileItStarts(t *testing.T) {
	kubetest.NeedNetNS(t)
	dir := filepath.Join(t.TempDir(), "test")
	for _, step := range []string{"datastore", "API server", "cluster DNS"} {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		cfg := config(t, dir)
		cfg.Progress = func(reached string, _ time.Duration) {
			if reached == step {
				stop()
			}
		}
		c, err := kube.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.Run(ctx); err != nil || ctx.Err() == nil {
			t.Errorf("end of Run, which was stopped at %q = %v, want nil", step, err)
		}
		t.Logf("ended after %v, stopped at %q", time.Since(began), step)
	}
}

func TestCluster_SaysWhatFailedWhileItStarted(t *testing.T) {
	kubetest.NeedNetNS(t)
	taken, err := net.Listen("tcp", net.JoinHostPort(address.String(), "53"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var log strings.Builder
	cfg := config(t, filepath.Join(t.TempDir(), "test"))
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	c, err := kube.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "cluster DNS on "+address.String()+":53") {
		t.Errorf("end of Run where the port of the DNS is taken = %v, want that", err)
	}
	if strings.Contains(log.String(), "left behind") {
		t.Errorf("parts of it were left behind:\n%s", log.String())
	}
}

// TestCluster runs one cluster over a platform of two regions for all that it shows.
func TestCluster(t *testing.T) {
	kubetest.NeedNetNS(t)
	platform := gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"local", "fra"},
		Total: gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30}})
	cfg := config(t, filepath.Join(t.TempDir(), "test"))
	cfg.Platform, cfg.Apps = platform.Client, platform.Client
	c := start(t, cfg)
	t.Cleanup(func() { c.Stop() })

	t.Run("AnswersAsTheVersionItIsBuiltFrom", c.version)
	t.Run("ShowsEachRegionAsAReadyNode", c.nodes)
	t.Run("DeniesAnUnknownUser", c.stranger)
	t.Run("HoldsANodeToItsOwnThings", c.nodeLimits)
	t.Run("AnswersNamesOfServices", c.names)
	t.Run("AnswersWhoHasAnAddressNow", c.reverseNames)
	t.Run("GivesServicesAddressesOfBothFamilies", c.dualStack)
	t.Run("RunsADeploymentAsMachines", func(t *testing.T) { c.deployment(t, platform) })
	t.Run("TellsEveryRegionsRefusal", func(t *testing.T) { c.refusals(t, platform) })
	t.Run("WakesAPodWhenAnotherOneGoes", c.wakes)
	t.Run("WakesAPodWhenTheMarketHasRoomAgain", func(t *testing.T) { c.wakesByOffer(t, platform) })
	t.Run("ReadsLogsThroughTheKubeletAPI", c.logs)
	t.Run("IsSpokenToByKubectl", c.kubectl)
	t.Run("StopsCleanlyAndStartsWithItsObjects", c.restarts)
}

func (r *running) version(t *testing.T) {
	client := r.Client
	v, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "k8s.io/kubernetes "+v.GitVersion+"\n") || v.Major != "1" {
		t.Errorf("server version = %s (%s.%s), want that of k8s.io/kubernetes in go.mod", v.GitVersion, v.Major, v.Minor)
	}
}

func (r *running) nodes(t *testing.T) {
	client := r.Client
	list, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				got[n.Name] = string(c.Status) + " " + n.Labels[corev1.LabelTopologyRegion]
			}
		}
	}
	if len(got) != 2 || got["local"] != "True local" || got["fra"] != "True fra" {
		t.Errorf("nodes = %v, want local and fra, Ready, each with its region", got)
	}
}

func (r *running) stranger(t *testing.T) {
	cfg := rest.CopyConfig(r.REST)
	cfg.Impersonate.UserName = "stranger"
	_, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("list of secrets as a stranger = %v, want forbidden", err)
	}
}

func (r *running) nodeLimits(t *testing.T) {
	cfg := rest.CopyConfig(r.REST)
	pki := filepath.Join(r.config.Dir, "pki")
	asNode := &rest.Config{Host: cfg.Host, TLSClientConfig: rest.TLSClientConfig{CAData: cfg.CAData,
		CertFile: filepath.Join(pki, "node-fra.crt"), KeyFile: filepath.Join(pki, "node-fra.key")}}
	client := kubernetes.NewForConfigOrDie(asNode)
	if _, err := client.CoreV1().Nodes().Get(t.Context(), "fra", metav1.GetOptions{}); err != nil {
		t.Errorf("get of its own node = %v, want none", err)
	}
	if _, err := client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list of all secrets as a node = %v, want forbidden", err)
	}
	label := []byte(`{"metadata":{"labels":{"stolen":"yes"}}}`)
	if _, err := client.CoreV1().Nodes().Patch(t.Context(), "local", "application/merge-patch+json", label, metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("patch of another node = %v, want forbidden", err)
	}
}

func (r *running) names(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(address.String(), "53"))
		}}
		for name, want := range map[string]string{"kubernetes.default.svc.cluster.local.": "10.43.0.1", "kube-dns.kube-system.svc.cluster.local.": "10.43.0.10"} {
			eventually(t, 5*time.Second, func() string {
				got, err := resolver.LookupHost(t.Context(), name)
				if err != nil || len(got) == 0 || got[0] != want {
					return fmt.Sprintf("%s over %s = %v, %v; want %s", name, network, got, err, want)
				}
				return ""
			})
		}
		if got, err := resolver.LookupHost(t.Context(), "nothing.default.svc.cluster.local."); err == nil {
			t.Errorf("a name of no service over %s = %v, want an error", network, got)
		}
	}
}

// reverseNames: an address that another Service has got is that one's at once.
func (r *running) reverseNames(t *testing.T) {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(address.String(), "53"))
	}}
	services := r.Client.CoreV1().Services("default")
	for _, name := range []string{"first", "second"} {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.77", Ports: []corev1.ServicePort{{Port: 80}}}}
		eventually(t, 5*time.Second, func() string { // the address of one that is gone is free a moment later
			if _, err := services.Create(t.Context(), s, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				return err.Error()
			}
			return ""
		})
		want := name + ".default.svc.cluster.local."
		eventually(t, 2*time.Second, func() string {
			if got, err := resolver.LookupAddr(t.Context(), "10.43.0.77"); err != nil || len(got) != 1 || got[0] != want {
				return fmt.Sprintf("10.43.0.77 is %v (%v), want %s", got, err, want)
			}
			return ""
		})
		if err := services.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *running) dualStack(t *testing.T) {
	client := r.Client
	s, err := client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Spec.ClusterIPs, " "); got != "10.43.0.10 fd43::a" {
		t.Errorf("addresses of kube-dns = %s, want the tenth of each range", got)
	}
}

func pod(cpu, memory string) corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "test/app", Args: []string{"run"},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}}}}}
}

func (r *running) deployment(t *testing.T, platform *gondolatest.Platform) {
	client := r.Client
	three, labels := int32(3), map[string]string{"app": "web"}
	began := time.Now()
	_, err := client.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("100m", "64Mi")}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() string {
		d, err := client.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || d.Status.AvailableReplicas != 3 {
			return fmt.Sprintf("%d of 3 Pods are available (%v)", d.Status.AvailableReplicas, err)
		}
		return ""
	})
	t.Logf("3 Pods available after %v", time.Since(began))
	machines, err := platform.List(t.Context(), "test-default", gondola.ListFilter{States: []gondola.State{gondola.Started}})
	if err != nil || len(machines) != 3 {
		t.Errorf("the platform runs %d Machines (%v), want one per Pod", len(machines), err)
	}
}

// logs: the API server and the kubelet API of a node trust each other's certificates.
func (r *running) logs(t *testing.T) {
	client := r.Client
	spec := pod("10m", "16Mi")
	spec.Containers[0].Args = []string{"print", "hello", ";", "run"}
	make1(t, client, "talker", spec)
	runs(t, client, "talker", 10*time.Second)
	eventually(t, 5*time.Second, func() string {
		b, err := client.CoreV1().Pods("default").GetLogs("talker", &corev1.PodLogOptions{}).DoRaw(t.Context())
		if err != nil || !strings.HasPrefix(string(b), "hello\n") {
			return fmt.Sprintf("logs = %q, %v; want hello first", b, err)
		}
		return ""
	})
}

// refusals: what the scheduler says of a Pod that fits nowhere is what the market says.
func (r *running) refusals(t *testing.T, platform *gondolatest.Platform) {
	client := r.Client
	make1(t, client, "huge", pod("64", "1Gi"))
	eventually(t, 10*time.Second, func() string {
		message := unscheduled(t, client, "huge")
		auction, err := platform.Ask(t.Context(), gondola.Ask{Requests: gondola.Resources{CPUMillis: 64000, MemoryBytes: 1 << 30}})
		if err != nil && len(auction.Refusals) == 0 {
			auction.Refusals = gondola.Refusals(err)
		}
		if len(auction.Refusals) != 2 {
			return fmt.Sprintf("the market refuses %v (%v), want two refusals", auction, err)
		}
		for _, refusal := range auction.Refusals {
			if !strings.Contains(message, string(refusal.Region)+": "+refusal.Reason) {
				return fmt.Sprintf("FailedScheduling says %q, want the market's %q in it", message, refusal.Reason)
			}
		}
		return ""
	})
}

// wakes: a Pod that found no room runs soon after another one has gone.
func (r *running) wakes(t *testing.T) {
	client := r.Client
	for _, region := range []string{"local", "fra"} {
		spec := pod("3", "256Mi")
		spec.NodeSelector = map[string]string{corev1.LabelTopologyRegion: region}
		make1(t, client, "big-"+region, spec)
	}
	for _, name := range []string{"big-local", "big-fra"} {
		runs(t, client, name, 15*time.Second)
	}
	make1(t, client, "waiting", pod("3", "256Mi"))
	eventually(t, 10*time.Second, func() string {
		if unscheduled(t, client, "waiting") == "" {
			return "the Pod was not refused"
		}
		return ""
	})
	if err := client.CoreV1().Pods("default").Delete(t.Context(), "big-fra", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	runs(t, client, "waiting", 5*time.Second)
	t.Logf("Running %v after the other was deleted", time.Since(began))
}

// wakesByOffer: the room is taken and given back by a Machine of which Kubernetes knows nothing.
func (r *running) wakesByOffer(t *testing.T, platform *gondolatest.Platform) {
	client := r.Client
	if _, err := platform.CreateApp(t.Context(), gondola.NewApp{Name: "other", Org: gondola.Org}); err != nil {
		t.Fatal(err)
	}
	requests := gondola.Resources{CPUMillis: 3500, MemoryBytes: 256 << 20}
	m, err := platform.Create(t.Context(), "other", gondola.CreateRequest{Region: "fra",
		Config: gondola.Config{Image: "test/app", Gondola: &gondola.ConfigExtension{Requests: &requests}}})
	if err != nil {
		t.Fatal(err)
	}
	spec := pod("3", "256Mi")
	spec.NodeSelector = map[string]string{corev1.LabelTopologyRegion: "fra"}
	// the scheduler hears of the Machine a moment after it is made: a Pod that was bound before that is none that waits
	pods := client.CoreV1().Pods("default")
	make1(t, client, "patient", spec)
	eventually(t, 20*time.Second, func() string {
		p, err := pods.Get(t.Context(), "patient", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "patient"}, Spec: spec}, metav1.CreateOptions{})
		} else if err == nil && p.Spec.NodeName != "" {
			err = pods.Delete(t.Context(), "patient", *metav1.NewDeleteOptions(0))
		}
		if got := unscheduled(t, client, "patient"); err != nil || !strings.Contains(got, "fra: 3 CPUs and 256 MB wanted") {
			return fmt.Sprintf("FailedScheduling says %q (%v), want the refusal of fra", got, err)
		}
		return ""
	})
	if err := platform.Destroy(t.Context(), m.Ref(), true); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	runs(t, client, "patient", 5*time.Second)
	t.Logf("Running %v after the Machine was destroyed", time.Since(began))
}

// kubectl asks with our own kubectl command and a kubeconfig that we merged.
func (r *running) kubectl(t *testing.T) {
	b, err := r.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config")
	if _, err := kube.MergeKubeconfig(path, b, -1, -1); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", path)
	for args, want := range map[string]string{"get nodes": "Ready", "get namespaces": "kube-system", "config current-context": "gondola-test",
		"version": "Client Version: " + kube.StampVersion(), "get --raw /readyz": "ok"} {
		if got := output(t, strings.Fields(args)...); !strings.Contains(got, want) {
			t.Errorf("kubectl %s printed %q, want %q in it", args, got, want)
		}
	}
}

// output runs kubectl, which knows only the process's own streams.
func output(t *testing.T, args ...string) string {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	stdout := os.Stdout
	os.Stdout = write
	cmd := kubectl.Command(func() string { return "" })
	os.Stdout = stdout
	cmd.SetArgs(args)
	err = cmd.Execute()
	write.Close()
	b, _ := io.ReadAll(read)
	if err != nil {
		t.Errorf("kubectl %v: %v", args, err)
	}
	return string(b)
}

func make1(t *testing.T, client kubernetes.Interface, name string, spec corev1.PodSpec) {
	t.Helper()
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.CoreV1().Pods("default").Delete(context.WithoutCancel(t.Context()), name, *metav1.NewDeleteOptions(0))
	})
}

func runs(t *testing.T, client kubernetes.Interface, name string, within time.Duration) {
	t.Helper()
	eventually(t, within, func() string {
		p, err := client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || p.Status.Phase != corev1.PodRunning {
			return fmt.Sprintf("Pod %s is %s on %q (%v): %v", name, p.Status.Phase, p.Spec.NodeName, err, p.Status.Conditions)
		}
		return ""
	})
}

// unscheduled returns what the last FailedScheduling Event of a Pod says.
func unscheduled(t *testing.T, client kubernetes.Interface, name string) (message string) {
	t.Helper()
	events, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=FailedScheduling,involvedObject.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		message = e.Message
	}
	return message
}

func (r *running) restarts(t *testing.T) {
	client := r.Client
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := r.Stop(); err != nil {
		t.Errorf("end of Run = %v, want nil", err)
	}
	t.Logf("stopped in %v", time.Since(began))
	for _, port := range []string{net.JoinHostPort(address.String(), "6443"), net.JoinHostPort(address.String(), "53")} {
		if conn, err := net.DialTimeout("tcp", port, time.Second); err == nil {
			conn.Close()
			t.Errorf("%s still answers after the end", port)
		}
	}
	*r = *start(t, r.config)
	client = r.Client
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("config map after a restart: %v", err)
	}
	eventually(t, 10*time.Second, func() string {
		d, err := client.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || d.Status.AvailableReplicas != 3 {
			return fmt.Sprintf("%d of 3 Pods are available after the restart (%v)", d.Status.AvailableReplicas, err)
		}
		return ""
	})
}
