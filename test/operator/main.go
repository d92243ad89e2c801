// Command operator is an operator as people write them, for the flows: it makes of each Site (example.com) a ConfigMap, a Deployment and a Service,
// and serves the webhooks of its kind.
//
//	operator certs   makes the webhooks' certificate and hands its authority to the API server; a Job of the chart
//	operator         the operator: webhooks in every replica, the controller in the one that leads
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

const group = "example.com"

var sites = schema.GroupVersionResource{Group: group, Version: "v1", Resource: "sites"}

// operator is what one replica has.
type operator struct {
	name, namespace, version string // of the Pod; of the program
	clients                  kubernetes.Interface
	objects                  dynamic.Interface
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	config.QPS = -1
	o := &operator{name: os.Getenv("POD_NAME"), namespace: os.Getenv("POD_NAMESPACE"), version: os.Getenv("VERSION"),
		clients: kubernetes.NewForConfigOrDie(config), objects: dynamic.NewForConfigOrDie(config)}
	run := o.run
	if len(os.Args) > 1 && os.Args[1] == "certs" {
		run = o.certs
	}
	if err := run(ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

// run serves webhooks and stands for leader until ctx ends.
func (o *operator) run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /default", review(o.setDefaults))
	mux.HandleFunc("POST /validate", review(o.validate))
	mux.HandleFunc("POST /convert", convert)
	server := &http.Server{Addr: ":9443", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServeTLS("/certs/tls.crt", "/certs/tls.key") }()

	lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: o.namespace, Name: "operator"}, Client: o.clients.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: o.name}}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{Lock: lock, ReleaseOnCancel: true,
		LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 500 * time.Millisecond,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: o.control, OnStoppedLeading: func() { log.Print("leads no more") }}})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { defer close(done); elector.Run(ctx) }()
	select {
	case err := <-failed:
		return err
	case <-done:
	}
	if ctx.Err() == nil {
		return errors.New("lost the lease")
	}
	// Endpoints follow a moment behind; until then the API server still asks here.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	select {
	case <-time.After(3 * time.Second):
	case <-end.Done():
	}
	return server.Shutdown(end)
}
