package kube

import (
	"context"
	"fmt"
	"os"

	"k8s.io/component-base/configz"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// schedulerConfig enables the market in the scheduler; only a file can. Pods that wait come back within two seconds, and every region is
// looked at, so that the Event of a Pod without a place lists the refusal of each. A plugin named both under multiPoint and at a point of its
// own comes first at that point; named only at one of them it would come last, and NodeResourcesFit would have spoken before it.
const schedulerConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: %q
  qps: %d
  burst: %d
leaderElection:
  leaderElect: false
percentageOfNodesToScore: 100
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 2
profiles:
- schedulerName: default-scheduler
  plugins:
    multiPoint: {enabled: [{name: %[4]s}]}
    preFilter: {enabled: [{name: %[4]s}]}
    filter: {enabled: [{name: %[4]s}]}
    score: {enabled: [{name: %[4]s, weight: 3}]}
`

// newScheduler parses the scheduler's flags and writes its configuration.
func (c *Cluster) newScheduler() (part, error) {
	file := c.cfg.path("scheduler.yaml")
	text := fmt.Sprintf(schedulerConfig, c.cfg.path(schedulerClient+".kubeconfig"), clientQPS, clientBurst, PluginName)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	o := options.NewOptions()
	if err := parseFlags("kube-scheduler", o.Flags, "--config="+file, "--secure-port=0"); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		ready, s, err := app.Setup(ctx, o, app.WithPlugin(PluginName, c.market.plugin))
		if err != nil {
			return err
		}
		defer configz.Delete("componentconfig") // the registry outlives us and refuses a name twice
		return app.Run(ctx, ready, s)
	}, nil
}
