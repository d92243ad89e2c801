//go:build linux

package gondolatest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/client"
	"gondola/internal/api"
	"gondola/internal/auth"
	"gondola/internal/gondolatest"
)

// namespace is a network namespace of this test.
type namespace struct {
	name string
	ip   string
}

// wire makes two network namespaces with a cable between them, and takes them away with the test.
func wire(t *testing.T) (a, b namespace) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("network namespaces need the ip command: apt-get install iproute2")
	}
	tag := fmt.Sprintf("gdt-%d-%d", os.Getpid(), time.Now().UnixNano()%100000)
	a, b = namespace{tag + "-a", "192.0.2.1"}, namespace{tag + "-b", "192.0.2.2"}
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	for _, n := range []namespace{a, b} {
		ip("netns add " + n.name)
		t.Cleanup(func() { exec.Command("ip", "netns", "delete", n.name).Run() })
		ip("-n " + n.name + " link set lo up")
	}
	ip("-n " + a.name + " link add cable type veth peer name cable netns " + b.name)
	for _, n := range []namespace{a, b} {
		ip("-n " + n.name + " addr add " + n.ip + "/24 dev cable")
		ip("-n " + n.name + " link set cable up")
	}
	return a, b
}

// do calls f on a thread inside the namespace. Sockets that f makes stay in it.
func (n namespace) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine, so no other goroutine runs in the wrong namespace
		ns, err := os.Open("/run/netns/" + n.name)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func (n namespace) listen() (l net.Listener, err error) {
	err = n.do(func() error { l, err = net.Listen("tcp", n.ip+":0"); return err })
	return l, err
}

func (n namespace) dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = n.do(func() error { c, err = new(net.Dialer).DialContext(ctx, network, addr); return err })
	return c, err
}

// fleet serves workers over TLS inside namespaces.
type fleet struct {
	t     *testing.T
	ca    *auth.CA
	http2 atomic.Int64 // requests that came over HTTP/2
	http1 atomic.Int64 // and over HTTP/1.1, which WebSockets need
	urls  map[gondola.WorkerName]string
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	ca, err := auth.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t: t, ca: ca, urls: map[gondola.WorkerName]string{}}
}

// serve serves a worker's API in a namespace, to servers alone.
func (f *fleet) serve(in namespace, w *gondolatest.Worker) {
	l, err := in.listen()
	if err != nil {
		f.t.Fatal(err)
	}
	handler := api.New(api.Config{Server: w.Worker, Auth: auth.ServersOnly{}})
	s := &http.Server{TLSConfig: f.ca.ListenConfig(auth.RoleWorker, string(w.Name)), Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			f.http2.Add(1)
		} else {
			f.http1.Add(1)
		}
		handler.ServeHTTP(rw, r)
	})}
	go s.ServeTLS(l, "", "")
	f.t.Cleanup(func() { s.Close() })
	f.urls[w.Name] = "https://" + l.Addr().String()
}

// client dials a worker from a namespace.
func (f *fleet) client(from namespace, worker gondola.WorkerName, config *tls.Config) *client.Client {
	c, err := client.New(client.Config{URL: f.urls[worker],
		HTTP: &http.Client{Transport: &http.Transport{DialContext: from.dial, TLSClientConfig: config, ForceAttemptHTTP2: true}}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

func TestContract_MarketOverMutualTLSBetweenNamespaces(t *testing.T) {
	a, b := wire(t)
	gondolatest.Machines(t, func(t *testing.T) gondola.Platform {
		f := newFleet(t)
		p := gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"far"}, Reach: func(w *gondolatest.Worker) gondola.Platform {
			f.serve(b, w)
			return f.client(a, w.Name, f.ca.DialConfig("server", w.Name))
		}})
		return p.Market
	})
}

func TestFleet_TwoWorkersInTwoNamespaces(t *testing.T) {
	a, b := wire(t)
	f := newFleet(t)
	where := map[gondola.WorkerName]namespace{"gru": a, "gig": b}
	p := gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"gru", "gig"}, Reach: func(w *gondolatest.Worker) gondola.Platform {
		f.serve(where[w.Name], w)
		return f.client(a, w.Name, f.ca.DialConfig("server", w.Name))
	}})
	p.NewApp("shop")
	for _, region := range []gondola.Region{"gru", "gig"} {
		m, err := p.Create(t.Context(), "shop", gondola.CreateRequest{Region: string(region), Config: gondola.Config{Image: "test/app"}})
		if err != nil {
			t.Fatal(err)
		}
		if m.Region != region || m.Gondola.Worker != gondola.WorkerName(region) {
			t.Errorf("asked for %s, placed in %s", region, m.Region)
		}
		if _, err := p.Wait(t.Context(), m.Ref(), gondola.WaitRequest{Timeout: 20 * time.Second}); err != nil {
			t.Fatal(err)
		}
		res, err := p.Exec(t.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "print", "here"}})
		if err != nil || res.Stdout != "here\n" {
			t.Errorf("Exec in %s = %+v, %v", region, res, err)
		}
	}
	if f.http2.Load() == 0 {
		t.Error("server and workers did not speak HTTP/2")
	}

	t.Run("StrangersAreRefused", func(t *testing.T) { strangers(t, f, a) })
}

func strangers(t *testing.T, f *fleet, from namespace) {
	other, err := auth.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	worker, err := f.ca.Issue(auth.RoleWorker, "gru")
	if err != nil {
		t.Fatal(err)
	}
	good := func() *tls.Config { return f.ca.DialConfig("server", "gig") }
	nobody, colleague, foreign := good(), good(), good()
	nobody.GetClientCertificate = nil
	colleague.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &worker, nil }
	foreign.GetClientCertificate = other.DialConfig("server", "gig").GetClientCertificate
	for name, c := range map[string]struct {
		config *tls.Config
		want   error
	}{
		"a client without a certificate":                {nobody, gondola.ErrUnauthorized},
		"a worker":                                      {colleague, gondola.ErrUnauthorized},
		"a server of another platform":                  {foreign, gondola.ErrUnavailable}, // the handshake fails
		"a server that took the worker for another one": {f.ca.DialConfig("server", "gru"), gondola.ErrUnavailable},
		"a server that trusts another platform":         {other.DialConfig("server", "gig"), gondola.ErrUnavailable},
	} {
		if _, err := f.client(from, "gig", c.config).List(t.Context(), "", gondola.ListFilter{}); !errors.Is(err, c.want) {
			t.Errorf("%s got %v, want %q", name, err, c.want)
		}
	}
	if _, err := f.client(from, "gig", good()).List(t.Context(), "", gondola.ListFilter{}); err != nil {
		t.Errorf("the server got %v", err)
	}
}
