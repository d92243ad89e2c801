package kube

import (
	"context"
	"fmt"
	"net/url"
	"sync"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// part is one of Kubernetes' programs, its flags parsed: run blocks until ctx ends. The cobra commands of the programs cannot live in one
// process (each takes the signals for itself), what lies under them can.
type part func(ctx context.Context) error

// sealFeatures fixes the feature gates, which the whole process shares: after the flags of every part have been parsed, and only once.
var sealFeatures = sync.OnceValue(func() error {
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	rest.SetDefaultWarningHandler(rest.NoWarnings{}) // API warnings are for users, not for parts of the control plane
	return compatibility.DefaultComponentGlobalsRegistry.Set()
})

// newAPIServer parses the API server's flags.
func (c *Cluster) newAPIServer() (part, error) {
	s := options.NewServerRunOptions()
	flags := s.Flags()
	if err := parseFlags("kube-apiserver", &flags, c.apiServerFlags()...); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		completed, err := s.Complete(ctx)
		if err != nil {
			return err
		}
		if errs := completed.Validate(); len(errs) > 0 {
			return utilerrors.NewAggregate(errs)
		}
		return apiserver.Run(ctx, completed)
	}, nil
}

func (c *Cluster) apiServerFlags() []string {
	f := c.pki.file
	return []string{
		"--etcd-servers=" + (&url.URL{Scheme: "unix", Path: c.socket()}).String(),
		"--bind-address=" + c.cfg.Address.String(), "--advertise-address=" + c.cfg.Address.String(), fmt.Sprintf("--secure-port=%d", c.cfg.Port),
		"--service-cluster-ip-range=" + joined(c.cfg.ServiceCIDRs),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--client-ca-file=" + f("ca.crt"), "--tls-cert-file=" + f("apiserver.crt"), "--tls-private-key-file=" + f("apiserver.key"),
		"--kubelet-client-certificate=" + f("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + f("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + f("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc." + c.cfg.Domain,
		"--service-account-key-file=" + f("sa.pub"), "--service-account-signing-key-file=" + f("sa.key"),
		"--requestheader-client-ca-file=" + f("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + f("front-proxy-client.crt"), "--proxy-client-key-file=" + f("front-proxy-client.key"),
		// The backend of an aggregated API or webhook is asked at its own address: it is routed, and there is no detour over a virtual one.
		"--enable-aggregator-routing=true",
		"--profiling=false",
		"--delete-collection-workers=8", // writes that come together share a sync of the disk
	}
}

// joined prints a list with commas.
func joined[T fmt.Stringer](list []T) string {
	var s string
	for i, x := range list {
		if i > 0 {
			s += ","
		}
		s += x.String()
	}
	return s
}

func parseFlags(name string, sets *cliflag.NamedFlagSets, args ...string) error {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	for _, f := range sets.FlagSets {
		fs.AddFlagSet(f)
	}
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
