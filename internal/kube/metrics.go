package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"
)

// The aggregated API metrics.k8s.io is served in this process, on the API server's address, and registered as any other would be: an
// APIService whose Service leads to it. Where a user has installed another metrics server, which takes the APIService over, that one stays; when
// it is removed ours is back within a minute.
const (
	metricsService = "gondola-metrics"
	metricsPort    = 4443
	metricsServing = "metrics-serving"
	metricsReader  = "system:aggregated-metrics-reader"
	frontProxy     = "front-proxy-client"
)

// metricsLeaf is the serving certificate, of the name under which the API server asks.
func metricsLeaf() leaf {
	name := metricsService + "." + metav1.NamespaceSystem + ".svc"
	return leaf{metricsServing, "ca", pkiutil.CertConfig{Config: certutil.Config{CommonName: name, AltNames: certutil.AltNames{DNSNames: []string{name}},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}}}
}

// serveMetrics serves handler to the API server until ctx ends. listening closes when it can be asked.
func (c *Cluster) serveMetrics(ctx context.Context, handler http.Handler, listening chan<- struct{}) error {
	pem, err := os.ReadFile(c.pki.file("front-proxy-ca.crt"))
	if err != nil {
		return err
	}
	callers := x509.NewCertPool()
	callers.AppendCertsFromPEM(pem)
	at := netip.AddrPortFrom(c.cfg.Address, metricsPort).String()
	l, err := net.Listen("tcp", at)
	if err != nil {
		return fmt.Errorf("metrics API: %w", err)
	}
	srv := &http.Server{Handler: onlyFrontProxy(handler), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig: &tls.Config{GetCertificate: c.pki.serving(metricsServing), ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: callers, MinVersion: tls.VersionTLS12}}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	close(listening)
	if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics API on %s: %w", at, err)
	}
	return nil
}

// runMetrics serves the metrics API and keeps it registered.
func (c *Cluster) runMetrics(ctx context.Context, handler http.Handler) error {
	authority, err := os.ReadFile(c.pki.file("ca.crt"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.rest(adminClient))
	if err != nil {
		return err
	}
	registry, err := aggregator.NewForConfig(c.rest(adminClient))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	listening := make(chan struct{})
	g.Go(func() error { return c.serveMetrics(ctx, handler, listening) })
	g.Go(func() error {
		if received(ctx, listening) {
			keepMetrics(ctx, client, registry, c.cfg.Address, authority)
		}
		return nil
	})
	return g.Wait()
}

// keepMetrics registers the metrics API until ctx ends, once a minute: a metrics server that somebody installs and removes again takes with it what
// is ours.
func keepMetrics(ctx context.Context, client kubernetes.Interface, registry aggregator.Interface, address netip.Addr, authority []byte) {
	again := time.NewTicker(time.Minute)
	defer again.Stop()
	for {
		_ = retry(ctx, 100*time.Millisecond, func(ctx context.Context) error { return registerMetrics(ctx, client, registry, address, authority) })
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// onlyFrontProxy lets only the API server's aggregator through, which has authorized what it passes on.
func onlyFrontProxy(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != frontProxy {
			http.Error(w, "Forbidden: this API is for the API server", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// registerMetrics makes the Service, its endpoint, the role of readers and the APIService; doing it again corrects them. Where the APIService is
// somebody else's it leaves all as it is.
func registerMetrics(ctx context.Context, client kubernetes.Interface, registry aggregator.Interface, address netip.Addr, authority []byte) error {
	port := int32(443)
	want := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.metrics.k8s.io", Labels: ours},
		Spec: apiregistrationv1.APIServiceSpec{Group: "metrics.k8s.io", Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, CABundle: authority,
			Service: &apiregistrationv1.ServiceReference{Namespace: metav1.NamespaceSystem, Name: metricsService, Port: &port}}}
	services := registry.ApiregistrationV1().APIServices()
	switch have, err := services.Get(ctx, want.Name, metav1.GetOptions{}); {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	case have.Spec.Service == nil || have.Spec.Service.Name != metricsService || have.Spec.Service.Namespace != metav1.NamespaceSystem:
		return nil
	}
	if err := ensureMetricsService(ctx, client, address); err != nil {
		return fmt.Errorf("service %s: %w", metricsService, err)
	}
	if err := ensureMetricsReader(ctx, client); err != nil {
		return fmt.Errorf("role %s: %w", metricsReader, err)
	}
	return put(ctx, services, want, func(have *apiregistrationv1.APIService) bool { return set(&have.Spec, want.Spec) })
}

func ensureMetricsService(ctx context.Context, client kubernetes.Interface, address netip.Addr) error {
	err := put(ctx, client.CoreV1().Services(metav1.NamespaceSystem), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: metricsService, Labels: andOurs(map[string]string{"k8s-app": metricsService})},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(metricsPort)}}},
	}, nil)
	if err != nil {
		return err
	}
	return ensureEndpoint(ctx, client, metricsService, address, endpointPort("https", corev1.ProtocolTCP, metricsPort))
}

// ensureMetricsReader lets those read metrics who may view, edit or administer.
func ensureMetricsReader(ctx context.Context, client kubernetes.Interface) error {
	want := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: metricsReader, Labels: andOurs(map[string]string{
		"rbac.authorization.k8s.io/aggregate-to-admin": "true", "rbac.authorization.k8s.io/aggregate-to-edit": "true", "rbac.authorization.k8s.io/aggregate-to-view": "true"})},
		Rules: []rbacv1.PolicyRule{rule("metrics.k8s.io", read, "pods", "nodes")}}
	return put(ctx, client.RbacV1().ClusterRoles(), want, func(have *rbacv1.ClusterRole) bool {
		others, otherwise := set(&have.Labels, want.Labels), set(&have.Rules, want.Rules)
		return others || otherwise
	})
}
