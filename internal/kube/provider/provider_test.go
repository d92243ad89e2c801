package provider_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
	"gondola/internal/kube/translate"
)

// namespace makes one for the test, with its default service account, and removes it at the end.
func (s *system) namespace(t *testing.T) string {
	t.Helper()
	ns, err := s.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
	})
	eventually(t, "service account default", func() error {
		_, err := s.Client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return ns.Name
}

// pod makes a Pod of one container "main" that runs the program's commands.
func pod(name string, args ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(1)), RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{Name: "main", Image: "test/program", Args: args}}}}
}

func (s *system) create(t *testing.T, ns string, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := s.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// until waits until the Pod is as f wants it; f returns what is missing.
func (s *system) until(t *testing.T, ns, name string, f func(p *corev1.Pod) string) *corev1.Pod {
	t.Helper()
	var p *corev1.Pod
	eventually(t, "pod "+name, func() (err error) {
		if p, err = s.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if missing := f(p); missing != "" {
			return fmt.Errorf("%s; status %+v", missing, p.Status)
		}
		return nil
	})
	return p
}

func phase(want corev1.PodPhase) func(p *corev1.Pod) string {
	return func(p *corev1.Pod) string {
		if p.Status.Phase != want {
			return fmt.Sprintf("phase %s, want %s", p.Status.Phase, want)
		}
		return ""
	}
}

// eventually tries f until it succeeds, for half a minute.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func (s *system) logs(t *testing.T, ns, name string, o corev1.PodLogOptions) (string, error) {
	t.Helper()
	stream, err := s.Client.CoreV1().Pods(ns).GetLogs(name, &o).Stream(t.Context())
	if err != nil {
		return "", err
	}
	defer stream.Close()
	b, err := io.ReadAll(stream)
	return string(b), err
}

// exec runs a command as kubectl does; spdy chooses the older protocol.
func (s *system) exec(t *testing.T, ns, name string, spdy bool, stdin io.Reader, cmd ...string) (string, error) {
	t.Helper()
	req := s.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(name).SubResource("exec").VersionedParams(
		&corev1.PodExecOptions{Container: "main", Command: cmd, Stdin: stdin != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	var e remotecommand.Executor
	var err error
	if spdy {
		e, err = remotecommand.NewSPDYExecutor(s.REST, "POST", req.URL())
	} else {
		e, err = remotecommand.NewWebSocketExecutor(s.REST, "GET", req.URL().String())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Stderr: &errOut})
	return out.String() + errOut.String(), err
}

// machines lists the Machines of a namespace that are not destroyed.
func (s *system) machines(t *testing.T, ns string) []gondola.Machine {
	t.Helper()
	list, err := s.Market.List(t.Context(), "", gondola.ListFilter{Metadata: map[string]string{translate.MetadataNamespace: ns}})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(m gondola.Machine) bool { return m.State == gondola.Destroyed || m.State == gondola.Destroying })
}

func TestDeployment_RunsScalesAndGoesAway(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	labels := map[string]string{"app": "web"}
	p := pod("web", "print", "hello", ";", "run")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	_, err := s.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	replicas := func(want int32) {
		eventually(t, "deployment", func() error {
			d, err := s.Client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
			if err == nil && (d.Status.ReadyReplicas != want || d.Status.Replicas != want) {
				err = fmt.Errorf("%d of %d ready, want %d", d.Status.ReadyReplicas, d.Status.Replicas, want)
			}
			return err
		})
	}
	replicas(3)
	pods, err := s.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ips := map[string]bool{}
	for _, p := range pods.Items {
		ips[p.Status.PodIP] = true
	}
	if len(ips) != 3 || ips[""] {
		t.Errorf("the Pods have the addresses %v, want three different ones", ips)
	}
	if got, err := s.logs(t, ns, pods.Items[0].Name, corev1.PodLogOptions{}); err != nil || !strings.HasPrefix(got, "hello\n") {
		t.Errorf("logs = %q, %v", got, err)
	}
	if err := s.Client.CoreV1().Pods(ns).Delete(t.Context(), pods.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.untilGone(t, ns, pods.Items[0].Name)
	replicas(3)
	if err := s.Client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.untilNoMachines(t, ns)
}

func TestExec_BringsOutputInputAndExitCode(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("shell", "run"))
	s.until(t, ns, "shell", phase(corev1.PodRunning))
	for _, spdy := range []bool{true, false} {
		t.Run(fmt.Sprintf("spdy=%v", spdy), func(t *testing.T) {
			if out, err := s.exec(t, ns, "shell", spdy, nil, "/program", "print", "hi"); err != nil || out != "hi\n" {
				t.Errorf("print hi = %q, %v", out, err)
			}
			if out, err := s.exec(t, ns, "shell", spdy, strings.NewReader("in and out"), "/program", "echo"); err != nil || out != "in and out" {
				t.Errorf("echo = %q, %v", out, err)
			}
			_, err := s.exec(t, ns, "shell", spdy, nil, "/program", "exit", "7")
			if exit, ok := err.(utilexec.CodeExitError); !ok || exit.Code != 7 {
				t.Errorf("exit 7 = %v, want exit code 7", err)
			}
		})
	}
}

func TestPod_EndsWithItsCode(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("good", "print", "done"))
	s.create(t, ns, pod("bad", "exit", "3"))
	s.until(t, ns, "good", phase(corev1.PodSucceeded))
	bad := s.until(t, ns, "bad", phase(corev1.PodFailed))
	if st := bad.Status.ContainerStatuses[0].State.Terminated; st == nil || st.ExitCode != 3 || st.Reason != "Error" {
		t.Errorf("state = %+v, want exit code 3 and reason Error", bad.Status.ContainerStatuses[0].State)
	}
	if got, err := s.logs(t, ns, "good", corev1.PodLogOptions{}); err != nil || got != "done\n" {
		t.Errorf("logs of a Pod that has ended = %q, %v", got, err)
	}
	eventually(t, "machines of ended Pods hold nothing", func() error { // the end of a container is told before its sandbox is cleared away
		for _, m := range s.machines(t, ns) {
			if m.Gondola.Allocated != (gondola.Resources{}) {
				return fmt.Errorf("machine %s holds %v", m.ID, m.Gondola.Allocated)
			}
		}
		return nil
	})
}

func TestImageThatDoesNotExist_IsSaidAndTriedAgain(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("lost", "run")
	p.Spec.Containers[0].Image = "nowhere.example/nothing:1"
	s.create(t, ns, p)
	for _, reason := range []string{"ErrImagePull", "ImagePullBackOff"} {
		s.until(t, ns, "lost", func(p *corev1.Pod) string {
			if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil || p.Status.ContainerStatuses[0].State.Waiting.Reason != reason {
				return "not waiting with " + reason
			}
			return phase(corev1.PodPending)(p)
		})
	}
	s.event(t, ns, "lost", "Failed")
	_, err := s.logs(t, ns, "lost", corev1.PodLogOptions{})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "trying and failing to pull image") {
		t.Errorf("logs = %v, want a bad request that says why", err)
	}
	if err := s.Client.CoreV1().Pods(ns).Delete(t.Context(), "lost", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.untilGone(t, ns, "lost")
}

// untilGone waits until there is no Pod of that name.
func (s *system) untilGone(t *testing.T, ns, name string) {
	t.Helper()
	eventually(t, "pod "+name+" that was deleted", func() error {
		p, err := s.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %v %v", p.Status.Phase, err)
	})
}

// untilNoMachines waits until all Machines of a namespace are destroyed.
func (s *system) untilNoMachines(t *testing.T, ns string) {
	t.Helper()
	eventually(t, "machines", func() error {
		if m := s.machines(t, ns); len(m) > 0 {
			return fmt.Errorf("%d left", len(m))
		}
		return nil
	})
}

// event waits for an Event about the Pod.
func (s *system) event(t *testing.T, ns, pod, reason string) {
	t.Helper()
	eventually(t, "event "+reason, func() error {
		list, err := s.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		var have []string
		for _, e := range list.Items {
			if e.Reason == reason {
				return nil
			}
			have = append(have, e.Reason)
		}
		return fmt.Errorf("only %v", have)
	})
}

func TestSecret_WaitsForItThenRunsAndFollowsChanges(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("reader", "print", "$(WORD)", ";", "watch", "/etc/words/word")
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "words"}, Key: "word"}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "words", MountPath: "/etc/words"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "words", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "words", Optional: new(true)}}}}
	s.create(t, ns, p)
	s.until(t, ns, "reader", func(p *corev1.Pod) string {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil || p.Status.ContainerStatuses[0].State.Waiting.Reason != "CreateContainerConfigError" {
			return "not waiting with CreateContainerConfigError"
		}
		return ""
	})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "words"}, StringData: map[string]string{"word": "sesame"}}
	if _, err := s.Client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, ns, "reader", phase(corev1.PodRunning))
	lines := func(want string) {
		eventually(t, "log", func() error {
			got, err := s.logs(t, ns, "reader", corev1.PodLogOptions{})
			if err == nil && !strings.Contains(got, want) {
				err = fmt.Errorf("%q has no %q", got, want)
			}
			return err
		})
	}
	lines("sesame\n")
	secret.StringData["word"] = "open"
	if _, err := s.Client.CoreV1().Secrets(ns).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	lines("open")
	for _, m := range s.machines(t, ns) {
		if raw := fmt.Sprintf("%+v", m.Config.Containers); strings.Contains(raw, "sesame") || strings.Contains(raw, "open") {
			t.Errorf("the Secret is in the Config: %s", raw)
		}
	}
}

func TestUnsupportedField_FailsThePodByName(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("greedy", "run")
	p.Spec.Volumes = []corev1.Volume{{Name: "root", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/proc"}}}}
	s.create(t, ns, p)
	got := s.until(t, ns, "greedy", phase(corev1.PodFailed))
	if got.Status.Reason != "Unsupported" || !strings.Contains(got.Status.Message, "spec.volumes[0].hostPath") {
		t.Errorf("reason %q, message %q: want Unsupported and the path", got.Status.Reason, got.Status.Message)
	}
}

// A controller that makes another Pod for each that fails is not given one failed Pod after the other.
func TestUnsupportedField_KeepsAControllersPodWaiting(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	spec := pod("greedy", "run").Spec
	spec.RestartPolicy = corev1.RestartPolicyAlways
	spec.Volumes = []corev1.Volume{{Name: "root", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/proc"}}}}
	labels := map[string]string{"app": "greedy"}
	_, err := s.Client.AppsV1().ReplicaSets(ns).Create(t.Context(), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "greedy"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var p corev1.Pod
	eventually(t, "the reason", func() error {
		list, err := s.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 || len(list.Items[0].Status.ContainerStatuses) != 1 || list.Items[0].Status.ContainerStatuses[0].State.Waiting.Reason != "Unsupported" {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		p = list.Items[0]
		return nil
	})
	if w := p.Status.ContainerStatuses[0].State.Waiting; p.Status.Phase != corev1.PodPending || !strings.Contains(w.Message, "spec.volumes[0].hostPath") {
		t.Errorf("phase %s, message %q: want Pending and the path", p.Status.Phase, w.Message)
	}
}

func TestMachineDestroyedFromOutside_FailsThePod(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("victim", "run"))
	s.until(t, ns, "victim", phase(corev1.PodRunning))
	m := s.machines(t, ns)
	if len(m) != 1 {
		t.Fatalf("%d machines, want 1", len(m))
	}
	if err := s.Market.Destroy(t.Context(), m[0].Ref(), true); err != nil {
		t.Fatal(err)
	}
	if got := s.until(t, ns, "victim", phase(corev1.PodFailed)); got.Status.Reason != "MachineDestroyed" {
		t.Errorf("reason %q, want MachineDestroyed", got.Status.Reason)
	}
}

func TestPodOnANodeThatIsFull_IsRefusedInTheMarketsWords(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("huge", "run")
	p.Spec.NodeName = "fra" // past the scheduler
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500")}
	s.create(t, ns, p)
	s.event(t, ns, "huge", "NoCapacity")
	s.until(t, ns, "huge", phase(corev1.PodPending))
}

func TestService_ReachesThePlatformWithItsBackends(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("web", "run"))
	web := s.until(t, ns, "web", phase(corev1.PodRunning))
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
	made, err := s.Client.CoreV1().Services(ns).Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "virtual service", func() error {
		for _, vs := range s.Host.Services("test") {
			if vs.Name == ns+"/web" {
				if len(vs.Ports) == 1 && len(vs.Ports[0].Backends) == 1 && vs.Ports[0].Backends[0].String() == web.Status.PodIP+":8080" && vs.Addresses[0].String() == made.Spec.ClusterIP {
					return nil
				}
				return fmt.Errorf("is %+v", vs)
			}
		}
		return fmt.Errorf("is not there")
	})
}

func TestPortForward_ReachesAPortInThePod(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("server", "listen", "7000"))
	s.until(t, ns, "server", phase(corev1.PodRunning))
	transport, upgrader, err := spdy.RoundTripperFor(s.REST)
	if err != nil {
		t.Fatal(err)
	}
	u := s.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("server").SubResource("portforward").URL()
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"0:7000"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	defer func() { close(stop); <-done }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("port-forward ended: %v", err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "answer", func() error {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintln(conn, "you")
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello you\n" {
			return fmt.Errorf("answer %q, %v", line, err)
		}
		return nil
	})
}

func TestAttach_SeesWhatTheContainerWrites(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("talker", "echo")
	p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
	s.create(t, ns, p)
	s.until(t, ns, "talker", phase(corev1.PodRunning))
	req := s.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("talker").SubResource("attach").VersionedParams(
		&corev1.PodAttachOptions{Container: "main", Stdin: true, Stdout: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(s.REST, "GET", req.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("back and forth"), Stdout: &out}); err != nil || out.String() != "back and forth" {
		t.Errorf("attach = %q, %v", out.String(), err)
	}
	s.until(t, ns, "talker", phase(corev1.PodSucceeded))
}

func TestCrashingContainer_IsRestartedAndCounted(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("crash", "exit", "4")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	s.create(t, ns, p)
	got := s.until(t, ns, "crash", func(p *corev1.Pod) string {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil || p.Status.ContainerStatuses[0].State.Waiting.Reason != "CrashLoopBackOff" {
			return "not in CrashLoopBackOff"
		}
		return phase(corev1.PodRunning)(p)
	})
	st := got.Status.ContainerStatuses[0]
	if st.RestartCount < 1 || st.LastTerminationState.Terminated == nil || st.LastTerminationState.Terminated.ExitCode != 4 {
		t.Errorf("status %+v, want a restart and exit code 4 of the last run", st)
	}
	s.event(t, ns, "crash", "BackOff")
}

func TestLabels_ReachTheDownwardAPIVolume(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	p := pod("named", "watch", "/etc/about/labels")
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "about", MountPath: "/etc/about"}}
	p.Spec.Volumes = []corev1.Volume{{Name: "about", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
		Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}}}
	s.create(t, ns, p)
	s.until(t, ns, "named", phase(corev1.PodRunning))
	if _, err := s.Client.CoreV1().Pods(ns).Patch(t.Context(), "named", types.MergePatchType, []byte(`{"metadata":{"labels":{"color":"green"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "log", func() error {
		got, err := s.logs(t, ns, "named", corev1.PodLogOptions{})
		if err == nil && !strings.Contains(got, `color="green"`) {
			err = fmt.Errorf("%q does not show the new label", got)
		}
		return err
	})
	got, err := s.Client.CoreV1().Pods(ns).Get(t.Context(), "named", metav1.GetOptions{})
	if err != nil || got.Labels["color"] != "green" || got.Labels["app"] != "named" {
		t.Errorf("labels %v, %v: the status must not overwrite them", got.Labels, err)
	}
}

func TestNewImage_ReachesTheMachine(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	s.create(t, ns, pod("renewed", "run"))
	before := s.until(t, ns, "renewed", phase(corev1.PodRunning))
	id := s.machines(t, ns)[0].ID
	changes, err := s.Client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: before.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	if _, err := s.Client.CoreV1().Pods(ns).Patch(t.Context(), "renewed", types.StrategicMergePatchType,
		[]byte(`{"spec":{"containers":[{"name":"main","image":"test/program:2"}]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	after := s.until(t, ns, "renewed", func(p *corev1.Pod) string {
		if st := p.Status.ContainerStatuses[0]; !strings.Contains(st.Image, ":2") || !st.Ready || !strings.Contains(st.ImageID, "test/program") {
			return "does not run the new image"
		} else if last := st.LastTerminationState.Terminated; st.RestartCount != 1 || last == nil {
			return "does not tell of the run before"
		}
		return phase(corev1.PodRunning)(p)
	})
	if m := s.machines(t, ns); len(m) != 1 || m[0].ID != id || m[0].Config.Containers[0].Image != "test/program:2" {
		t.Errorf("machines %+v, want %s with the new image", m, id)
	}
	for change := range changes.ResultChan() {
		p := change.Object.(*corev1.Pod)
		if !podutil.IsPodReady(p) {
			t.Errorf("the Pod was told not to be ready, though its new image ran soon: %+v", p.Status.ContainerStatuses)
		}
		if p.ResourceVersion == after.ResourceVersion {
			break
		}
	}
}
