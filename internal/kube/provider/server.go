package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"gondola"
)

// kubelet serves the kubelet's HTTP API of one node: logs, exec, attach and port-forward of its Pods, and what they use.
type kubelet struct {
	node *node
	cfg  Config
}

const (
	streamIdle   = 4 * time.Hour // as a kubelet
	streamCreate = 30 * time.Second
)

// serve answers on the node's first address until ctx ends.
func (k *kubelet) serve(ctx context.Context) error {
	at := netip.AddrPortFrom(k.node.Addresses[0], uint16(k.node.port))
	listen := k.node.Listen
	if listen == nil {
		listen = listenHere
	}
	l, err := listen(at.String())
	if err != nil {
		return fmt.Errorf("kubelet API of node %s: %w", k.node.Name, err)
	}
	srv := &http.Server{
		Handler: k.authorized(k.routes()), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig: &tls.Config{
			GetCertificate: k.node.Serving, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: k.cfg.ClientCA,
			MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, // SPDY and WebSockets take over the connection
		},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("kubelet API of node %s: %w", k.node.Name, err)
	}
	return nil
}

func listenHere(address string) (net.Listener, error) { return net.Listen("tcp", address) }

func (k *kubelet) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /stats/summary", k.statsSummary)
	mux.HandleFunc("GET /metrics/resource", k.resourceMetrics)
	mux.HandleFunc("GET /metrics", k.ownMetrics)
	mux.HandleFunc("GET /pods", k.pods)
	mux.HandleFunc("GET /pods/", k.pods)
	mux.HandleFunc("GET /runningpods/", k.runningPods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.logs)
	for _, uid := range []string{"", "/{uid}"} {
		mux.HandleFunc("/exec/{namespace}/{pod}"+uid+"/{container}", k.exec)
		mux.HandleFunc("/attach/{namespace}/{pod}"+uid+"/{container}", k.attach)
		mux.HandleFunc("/portForward/{namespace}/{pod}"+uid, k.portForward)
	}
	return mux
}

// mayUse says whether a certificate is the API server's, or an administrator's.
func mayUse(c *x509.Certificate) bool {
	return c.Subject.CommonName == "kube-apiserver-kubelet-client" ||
		slices.Contains(c.Subject.Organization, "system:masters") || slices.Contains(c.Subject.Organization, "kubeadm:cluster-admins")
}

// find returns the Pod that the path names and its Machine.
func (k *kubelet) find(r *http.Request) (*corev1.Pod, *gondola.Machine, error) {
	return k.node.engine.lookup(k.node.Name, r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
}

// lookup returns a Pod of a node and its Machine. uid may be empty.
func (e *engine) lookup(node, namespace, name, uid string) (*corev1.Pod, *gondola.Machine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.pods {
		p := t.pod
		if p == nil || p.Namespace != namespace || p.Name != name || p.Spec.NodeName != node || uid != "" && string(p.UID) != uid {
			continue
		}
		if t.machine == nil || t.machine.State == gondola.Destroyed {
			return p, nil, gondola.Errorf(gondola.ErrPrecondition, "pod %q has no machine yet", name)
		}
		return p, t.machine, nil
	}
	return nil, nil, gondola.Errorf(gondola.ErrNotFound, "pod does not exist")
}

// container returns the named container's place in the Pod's status, or an error as a kubelet words it.
func containerStatus(pod *corev1.Pod, m *gondola.Machine, name string) (*gondola.ContainerStatus, error) {
	if m.Gondola != nil {
		for i := range m.Gondola.Containers {
			if m.Gondola.Containers[i].Name == name {
				return &m.Gondola.Containers[i], nil
			}
		}
	}
	if containerPath(pod, name) == "" || !hasContainer(pod, name) {
		return nil, gondola.Errorf(gondola.ErrNotFound, "container not found (%q)", name)
	}
	return nil, gondola.Errorf(gondola.ErrPrecondition, "container %q in pod %q is waiting to start: ContainerCreating", name, pod.Name)
}

func hasContainer(pod *corev1.Pod, name string) bool {
	is := func(c corev1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(pod.Spec.Containers, is) || slices.ContainsFunc(pod.Spec.InitContainers, is) || isEphemeral(pod, name)
}

func (k *kubelet) pods(w http.ResponseWriter, _ *http.Request) {
	k.list(w, func(*gondola.Machine) bool { return true })
}

func (k *kubelet) runningPods(w http.ResponseWriter, _ *http.Request) { k.list(w, running) }

func (k *kubelet) list(w http.ResponseWriter, keep func(*gondola.Machine) bool) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	e := k.node.engine
	e.mu.Lock()
	for _, t := range e.pods {
		if t.pod != nil && t.pod.Spec.NodeName == k.node.Name && keep(t.machine) {
			list.Items = append(list.Items, *t.pod)
		}
	}
	e.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

// logs serves /containerLogs, whose query is a v1.PodLogOptions.
func (k *kubelet) logs(w http.ResponseWriter, r *http.Request) {
	opts, err := logOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, m, err := k.find(r)
	if err == nil {
		var st *gondola.ContainerStatus
		if st, err = containerStatus(pod, m, opts.Container); err == nil {
			err = hasLog(pod, st, opts.Previous)
		}
	}
	if err != nil {
		fail(w, err)
		return
	}
	stream, err := k.cfg.Platform.Logs(r.Context(), m.Ref(), opts)
	if err != nil {
		fail(w, err)
		return
	}
	defer stream.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	_, _ = io.Copy(&flushWriter{w, flush}, stream) // the reader has gone, or the log has ended
}

// hasLog says what a kubelet says where the container has no log yet.
func hasLog(pod *corev1.Pod, st *gondola.ContainerStatus, previous bool) error {
	switch {
	case previous && st.Last == nil:
		return gondola.Errorf(gondola.ErrInvalid, "previous terminated container %q in pod %q not found", st.Name, pod.Name)
	case !previous && st.State.Kind == gondola.ContainerWaiting && st.Last == nil:
		reason := st.State.Reason
		if reason == "" {
			reason = "ContainerCreating"
		}
		if reason == "ErrImagePull" || reason == "ImagePullBackOff" {
			return gondola.Errorf(gondola.ErrInvalid, "container %q in pod %q is waiting to start: trying and failing to pull image", st.Name, pod.Name)
		}
		return gondola.Errorf(gondola.ErrInvalid, "container %q in pod %q is waiting to start: %s", st.Name, pod.Name, reason)
	}
	return nil
}

// logOptions reads a v1.PodLogOptions from the query.
func logOptions(r *http.Request) (gondola.LogOptions, error) {
	q := r.URL.Query()
	o := gondola.LogOptions{Container: r.PathValue("container")}
	var errs []error
	flag := func(name string) bool {
		if !q.Has(name) {
			return false
		}
		b, err := strconv.ParseBool(q.Get(name))
		errs = append(errs, err)
		return b
	}
	number := func(name string) *int64 {
		if q.Get(name) == "" {
			return nil
		}
		n, err := strconv.ParseInt(q.Get(name), 10, 64)
		if err != nil || n < 0 {
			errs = append(errs, fmt.Errorf("%s %q is not a number of zero or more", name, q.Get(name)))
		}
		return &n
	}
	o.Follow, o.Previous, o.Timestamps = flag("follow"), flag("previous"), flag("timestamps")
	if o.Tail = number("tailLines"); o.Tail == nil && q.Get("tail") != "all" {
		o.Tail = number("tail")
	}
	if n := number("limitBytes"); n != nil {
		o.LimitBytes = *n
	}
	if n := number("sinceSeconds"); n != nil {
		o.Since = time.Now().Add(-time.Duration(*n) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		errs = append(errs, err)
		o.Since = t
	}
	switch s := q.Get("stream"); s {
	case "", "All":
	case "Stdout":
		o.Stream = "stdout"
	case "Stderr":
		o.Stream = "stderr"
	default:
		errs = append(errs, fmt.Errorf("stream %q: use All, Stdout or Stderr", s))
	}
	return o, errors.Join(errs...)
}

// flushWriter sends every write on at once.
type flushWriter struct {
	io.Writer
	flush *http.ResponseController
}

func (f *flushWriter) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.flush.Flush()
	}
	return n, err
}

func (k *kubelet) exec(w http.ResponseWriter, r *http.Request) {
	s, ok := k.session(w, r)
	if !ok {
		return
	}
	remotecommand.ServeExec(w, r, s, "", "", s.container, r.URL.Query()["command"], s.options, streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) attach(w http.ResponseWriter, r *http.Request) {
	s, ok := k.session(w, r)
	if !ok {
		return
	}
	remotecommand.ServeAttach(w, r, s, "", "", s.container, s.options, streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

// session finds what exec and attach connect to; it has answered where it returns false.
func (k *kubelet) session(w http.ResponseWriter, r *http.Request) (*session, bool) {
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, false
	}
	name := r.PathValue("container")
	pod, m, err := k.find(r)
	if err == nil {
		_, err = containerStatus(pod, m, name)
	}
	if err != nil {
		fail(w, err)
		return nil, false
	}
	return &session{platform: k.cfg.Platform, ref: m.Ref(), container: name, options: opts}, true
}

func (k *kubelet) portForward(w http.ResponseWriter, r *http.Request) {
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, m, err := k.find(r)
	if err != nil {
		fail(w, err)
		return
	}
	s := &session{platform: k.cfg.Platform, ref: m.Ref()}
	portforward.ServePortForward(w, r, s, "", "", opts, streamIdle, streamCreate, portforward.SupportedProtocols)
}

// fail answers with the status that a kubelet would.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, gondola.ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, gondola.ErrInvalid), errors.Is(err, gondola.ErrPrecondition):
		code = http.StatusBadRequest
	case errors.Is(err, gondola.ErrUnsupported):
		code = http.StatusNotImplemented
	case errors.Is(err, gondola.ErrUnavailable):
		code = http.StatusServiceUnavailable
	}
	http.Error(w, err.Error(), code)
}
