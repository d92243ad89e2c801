package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// connections is how many a load has open at a time.
const connections = 8

// service measures what the way through a ClusterIP costs, and the sandbox: the same load to the virtual address, to the Pod's own and to the
// same program as a process of the host, in turns.
func (b *bench) service(ctx context.Context) (err error) {
	w, err := b.watchPods(ctx)
	if err != nil {
		return err
	}
	defer w.Stop()
	const name = "bench-web"
	if err := b.createPod(ctx, name); err != nil {
		return err
	}
	if err := w.until(ctx, func() bool { return w.running() == 1 }); err != nil {
		return err
	}
	pod, err := b.host.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	svc, err := b.host.kube.CoreV1().Services(namespace).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Selector: podLabels(), Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt(helloPort)}}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	virtual, direct := net.JoinHostPort(svc.Spec.ClusterIP, "80"), net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(helloPort))
	for _, a := range []string{virtual, direct} {
		if err := b.reachable(ctx, a); err != nil {
			return err
		}
	}
	stop, err := b.startPlain(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for _, kind := range []struct {
		name      string
		keepAlive bool
	}{{"kept-open connections", true}, {"a new connection per request", false}} {
		rates := map[string]float64{}
		for _, a := range []string{virtual, direct, plainAddress, plainAddress, direct, virtual} { // neither has the better place
			rate, err := load(ctx, "http://"+a+"/healthz", kind.keepAlive, time.Duration(b.rounds(5, 1))*time.Second)
			if err != nil {
				return err
			}
			rates[a] += rate / 2
		}
		b.add(fmt.Sprintf("host → ClusterIP → Pod in gVisor, %d workers, %s", connections, kind.name), fmt.Sprintf("%.0f requests/s", rates[virtual]),
			fmt.Sprintf("host → Pod's own address: %.0f requests/s; the program as a process of the host: %.0f requests/s", rates[direct], rates[plainAddress]))
	}
	if err := b.host.kube.CoreV1().Services(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := b.host.kube.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return w.until(ctx, func() bool { return len(w.phases) == 0 })
}

// reachable waits until an address answers.
func (b *bench) reachable(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return firstByte(ctx, addr)
}

// load asks again and again for d and returns the requests answered per second.
func load(ctx context.Context, url string, keepAlive bool, d time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	transport := &http.Transport{MaxIdleConnsPerHost: connections, DisableKeepAlives: !keepAlive}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	var answered atomic.Int64
	failed := make(chan error, connections)
	var workers sync.WaitGroup
	began := time.Now()
	for range connections {
		workers.Go(func() {
			for time.Since(began) < d {
				if err := getOnce(ctx, c, url); err != nil {
					failed <- err
					return
				}
				answered.Add(1)
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	select {
	case err := <-failed:
		return 0, err
	default:
		return float64(answered.Load()) / took.Seconds(), nil
	}
}

func getOnce(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, res.Status)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
