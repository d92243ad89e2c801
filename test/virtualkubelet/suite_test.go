// Package virtualkubelet_test is a Virtual Kubelet as somebody else would build it, on the controllers of github.com/virtual-kubelet/virtual-kubelet with
// gondola's provider, and the end-to-end suite of that module against it. test/scripts/40-virtualkubelet.txtar builds and runs it, inside a
// platform's network.
package virtualkubelet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	vke2e "github.com/virtual-kubelet/virtual-kubelet/test/e2e"
	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate/csr"

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
	clients, _ := startNode(t)
	vke2e.NewEndToEndTestSuite(vke2e.EndToEndTestSuiteConfig{
		Kubeconfig: *kubeconfig, Namespace: name, NodeName: name, WatchTimeout: time.Minute,
		Setup: func() error { return setUp(t.Context(), clients) },
	}).Run(t)
}

// namespace makes the namespace if there is none, and waits for its service account, without which nobody can make a Pod.
func namespace(ctx context.Context, clients kubernetes.Interface) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := clients.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
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

// setUp makes the namespace and says where the kubelet is: the suite asks it for statistics through a Pod of the node's name, since upstream runs
// its Virtual Kubelet in one.
func setUp(ctx context.Context, clients kubernetes.Interface) error {
	if err := namespace(ctx, clients); err != nil {
		return err
	}
	pod, err := clients.CoreV1().Pods(name).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{SchedulerName: "none",
		Containers: []corev1.Container{{Name: "stands-for-the-kubelet", Image: "none"}}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status.PodIP, pod.Status.PodIPs = *address, []corev1.PodIP{{IP: *address}}
	_, err = clients.CoreV1().Pods(name).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// startNode runs the node until stop is called or the test ends.
func startNode(t *testing.T) (_ kubernetes.Interface, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var parts errgroup.Group
	stop = sync.OnceFunc(func() {
		cancel()
		if err := parts.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
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
	pair := serving(t, clients, config, addr)
	mux := http.NewServeMux()
	node, err := nodeutil.NewNode(name, p.Controllers, nodeutil.WithClient(clients), nodeutil.AttachProviderRoutes(mux), func(c *nodeutil.NodeConfig) error {
		c.Handler, c.HTTPListenAddr = mux, netip.AddrPortFrom(addr, 10250).String()
		c.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	parts.Go(func() error { return p.Run(ctx) })
	select {
	case <-p.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the provider is not ready")
	}
	parts.Go(func() error { return node.Run(ctx) })
	if err := node.WaitReady(ctx, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	return clients, stop
}

// serving asks the cluster for the certificate of the node's kubelet API, as kubelets do, and approves it, as an administrator does.
func serving(t *testing.T, clients kubernetes.Interface, config *rest.Config, addr netip.Addr) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{IPAddresses: []net.IP{addr.AsSlice()}, DNSNames: []string{name},
		Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	asNode := rest.CopyConfig(config)
	asNode.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + name, Groups: []string{"system:nodes", "system:authenticated"}}
	node, err := kubernetes.NewForConfig(asNode)
	if err != nil {
		t.Fatal(err)
	}
	request, err := node.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: certificatesv1.KubeletServingSignerName, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	if _, err := clients.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), request.Name, request, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	signed, err := csr.WaitForCertificate(ctx, clients, request.Name, request.UID)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(signed, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
