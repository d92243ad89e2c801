package kubetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"gondola/internal/kube"
)

// Cluster is one that runs.
type Cluster struct {
	*kube.Cluster
	Client kubernetes.Interface // its administrator's, without a limit of requests
	REST   *rest.Config         // of the same

	Stop func() error // ends it and returns what its Run did; may be called again
}

// Start runs a cluster and returns when it is ready, or with the error that it ended with before. It is given a minute and a half.
func Start(cfg kube.Config) (*Cluster, error) {
	k, err := kube.New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	c := &Cluster{Cluster: k, Stop: sync.OnceValue(func() error {
		cancel()
		return <-ended
	})}
	select {
	case <-k.Ready():
		err = c.connect()
	case err = <-ended:
		ended <- err
		err = fmt.Errorf("the cluster ended before it was ready: %w", err)
	case <-time.After(90 * time.Second):
		err = errors.New("the cluster is not ready after 90 s")
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) connect() error {
	b, err := c.Kubeconfig()
	if err != nil {
		return err
	}
	if c.REST, err = clientcmd.RESTConfigFromKubeConfig(b); err != nil {
		return err
	}
	c.REST.QPS = -1
	c.Client, err = kubernetes.NewForConfig(c.REST)
	return err
}
