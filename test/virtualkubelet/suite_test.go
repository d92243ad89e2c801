// Package virtualkubelet_test is a Virtual Kubelet as somebody else would build it, on the controllers of github.com/virtual-kubelet/virtual-kubelet with
// gondola's provider, and the end-to-end suite of that module against it. test/scripts/40-virtualkubelet.txtar builds and runs it, inside a
// platform's network.
package virtualkubelet_test

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	vke2e "github.com/virtual-kubelet/virtual-kubelet/test/e2e"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"

	"gondola"
	"gondola/client"
	"gondola/virtualkubelet"
)

var (
	kubeconfig = flag.String("kubeconfig", "", "of the cluster that the node joins")
	server     = flag.String("server", "http://127.0.0.1:4280", "Machines API")
	token      = flag.String("token", "", "for the Machines API")
	region     = flag.String("region", "", "where Pods run")
	address    = flag.String("address", "", "of the node, on this host")
)

const name = "foreign"

func TestMain(m *testing.M) {
	flag.Parse()
	if *kubeconfig == "" {
		os.Stdout.WriteString("run by test/scripts/40-virtualkubelet.txtar\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestSuite runs the library's nine tests, none left out.
func TestSuite(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	clients := startNode(t, ctx)
	t.Cleanup(stop) // before what startNode waits for
	vke2e.NewEndToEndTestSuite(vke2e.EndToEndTestSuiteConfig{
		Kubeconfig: *kubeconfig, Namespace: name, NodeName: name, WatchTimeout: time.Minute,
		Setup: func() error { return setUp(ctx, clients) },
	}).Run(t)
}

// setUp makes the namespace and waits for its service account, without which nobody can make a Pod.
func setUp(ctx context.Context, clients kubernetes.Interface) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := clients.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return err
	}
	w, err := clients.CoreV1().ServiceAccounts(name).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer w.Stop()
	<-w.ResultChan()
	return nil
}

// startNode runs the node until the test ends.
func startNode(t *testing.T, ctx context.Context) kubernetes.Interface {
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	machines, err := client.New(client.Config{URL: *server, Token: *token})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netip.ParseAddr(*address)
	if err != nil {
		t.Fatal(err)
	}
	p, err := virtualkubelet.New(virtualkubelet.Config{Cluster: name, Node: name, Region: gondola.Region(*region), Address: addr, Kubernetes: config,
		Platform: machines, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := cert.GenerateSelfSignedCertKey(name, nil, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	node, err := nodeutil.NewNode(name, p.Controllers, nodeutil.WithClient(clients), nodeutil.AttachProviderRoutes(mux), func(c *nodeutil.NodeConfig) error {
		c.Handler, c.HTTPListenAddr = mux, netip.AddrPortFrom(addr, 10250).String()
		c.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, ctx, "provider", p.Run)
	select {
	case <-p.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the provider is not ready")
	}
	run(t, ctx, "node", node.Run)
	if err := node.WaitReady(ctx, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	return clients
}

// run runs a part until ctx ends, and waits for its end.
func run(t *testing.T, ctx context.Context, what string, part func(context.Context) error) {
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	t.Cleanup(func() {
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	})
}
