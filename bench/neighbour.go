package main

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
)

// neighbour is a Pod that minds its own business and answers HTTP.
type neighbour struct {
	machine    gondola.Ref
	url        string
	client     *http.Client
	asked, bad atomic.Int64
}

func (b *bench) newNeighbour(ctx context.Context) (*neighbour, error) {
	pod, err := b.host.kube.CoreV1().Pods(namespace).Get(ctx, "neighbour", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	m, _, err := b.machineOf(ctx, pod)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(helloPort))
	if err := b.reachable(ctx, address); err != nil {
		return nil, err
	}
	return &neighbour{machine: m.Ref(), url: "http://" + address + "/healthz", client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}}, nil
}

func (n *neighbour) ask(ctx context.Context) error {
	err := getOnce(ctx, n.client, n.url)
	n.asked.Add(1)
	if err != nil && ctx.Err() == nil {
		n.bad.Add(1)
	}
	return err
}

func (n *neighbour) count() int64  { return n.asked.Load() }
func (n *neighbour) failed() int64 { return n.bad.Load() }
func (n *neighbour) stop()         { n.client.CloseIdleConnections() }
