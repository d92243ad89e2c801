package virtualkubelet_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
	"gondola/client"
)

// TestLife_OfAPodBeyondTheKubelets has what the suite leaves out: a condition of somebody else's that the Pod waits for, variables out of a Secret
// that stay out of the Machine's Config, a Virtual Kubelet that dies and comes back, an end with its exit code, well before the grace period is over.
func TestLife_OfAPodBeyondTheKubelets(t *testing.T) {
	clients, stop := startNode(t)
	if err := namespace(t.Context(), clients); err != nil {
		t.Fatal(err)
	}
	pods := clients.CoreV1().Pods(name)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "word"}, StringData: map[string]string{"word": "sesame"}}
	if _, err := clients.CoreV1().Secrets(name).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "lives"}, Spec: corev1.PodSpec{NodeName: name,
		ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}},
		Containers: []corev1.Container{{Name: "main", Image: "foo", Env: []corev1.EnvVar{{Name: "WORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "word"}, Key: "word"}}}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, clients, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodRunning && p.Status.ContainerStatuses[0].Ready
	})
	if p := get(t, clients); podutil.IsPodReady(p) {
		t.Errorf("ready although its gate is shut: %+v", p.Status.Conditions)
	}
	before := machineOf(t, pod.UID)
	for _, e := range []map[string]string{before.Config.Env, before.Config.Containers[0].Env} {
		if e["WORD"] != "" {
			t.Errorf("the Machine's Config has the Secret's word %q", e["WORD"])
		}
	}

	gate := []byte(`{"status":{"conditions":[{"type":"example.com/gate","status":"True"}]}}`)
	if _, err := pods.Patch(t.Context(), "lives", types.StrategicMergePatchType, gate, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	until(t, clients, podutil.IsPodReady)

	stop()
	clients, _ = startNode(t)
	if _, err := pods.Patch(t.Context(), "lives", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"again":"yes"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := machineOf(t, pod.UID); after.ID != before.ID || after.State != gondola.Started {
		t.Errorf("after the kubelet came back the Pod has machine %s %s, want %s started", after.ID, after.State, before.ID)
	}
	if p := get(t, clients); p.Status.ContainerStatuses[0].RestartCount != 0 || !podutil.IsPodReady(p) || p.Labels["again"] != "yes" {
		t.Errorf("after the kubelet came back: labels %v, status %+v", p.Labels, p.Status)
	}

	began := time.Now()
	if err := pods.Delete(t.Context(), "lives", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var last *corev1.Pod
	err = poll(t, func(ctx context.Context) (bool, error) {
		p, err := pods.Get(ctx, "lives", metav1.GetOptions{})
		if err == nil {
			last = p
		}
		return apierrors.IsNotFound(err), nil
	})
	if err != nil || time.Since(began) > 20*time.Second {
		t.Errorf("a Pod that ends at once is there for %s of its 30 s of grace: %v; last %+v", time.Since(began), err, last.Status)
	}
}

func get(t *testing.T, clients kubernetes.Interface) *corev1.Pod {
	t.Helper()
	p, err := clients.CoreV1().Pods(name).Get(t.Context(), "lives", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func until(t *testing.T, clients kubernetes.Interface, is func(*corev1.Pod) bool) {
	t.Helper()
	err := poll(t, func(ctx context.Context) (bool, error) {
		p, err := clients.CoreV1().Pods(name).Get(ctx, "lives", metav1.GetOptions{})
		return err == nil && is(p), err
	})
	if err != nil {
		t.Fatalf("%v: %+v", err, get(t, clients).Status)
	}
}

func poll(t *testing.T, f wait.ConditionWithContextFunc) error {
	return wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 30*time.Second, true, f)
}

func machineOf(t *testing.T, uid types.UID) gondola.Machine {
	t.Helper()
	machines, err := client.New(client.Config{URL: *server, Token: *token})
	if err != nil {
		t.Fatal(err)
	}
	list, err := machines.List(t.Context(), "", gondola.ListFilter{Metadata: map[string]string{"kubernetes_uid": string(uid)}})
	if err != nil || len(list) != 1 {
		t.Fatalf("machines of pod %s: %v, %v", uid, list, err)
	}
	return list[0]
}
