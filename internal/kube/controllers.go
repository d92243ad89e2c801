package kube

import (
	"context"
	"fmt"

	"k8s.io/component-base/configz"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
)

// Rates towards the API server. Kubernetes' own defaults (20 a second for all controllers) are for a shared API server far away: they cost
// four seconds at the start and hold a Deployment to 20 Pods a second.
const (
	clientQPS   = 1000
	clientBurst = 2000
)

// newControllers parses the controller manager's flags. Controllers that act on a cloud's nodes, routes and load balancers stay off: nodes,
// routes and Services are the provider's and the platform's.
func (c *Cluster) newControllers() (part, error) {
	o, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	f := c.pki.file
	flags := o.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	o.ParsedFlags = &flags
	if err := parseFlags("kube-controller-manager", &flags,
		"--kubeconfig="+c.cfg.path(controllerClient+".kubeconfig"), "--leader-elect=false", "--secure-port=0",
		fmt.Sprintf("--kube-api-qps=%d", clientQPS), fmt.Sprintf("--kube-api-burst=%d", clientBurst),
		"--use-service-account-credentials=true", "--service-account-private-key-file="+f("sa.key"), "--root-ca-file="+f("ca.crt"),
		"--cluster-signing-cert-file="+f("ca.crt"), "--cluster-signing-key-file="+f("ca.key"), "--cluster-name="+c.cfg.Name,
		"--allocate-node-cidrs=false",
		"--controllers=*,-node-ipam-controller,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller",
	); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		config, err := o.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
		if err != nil {
			return err
		}
		defer configz.Delete(app.ConfigzName) // the registry outlives us and refuses a name twice
		return app.Run(ctx, config.Complete())
	}, nil
}
