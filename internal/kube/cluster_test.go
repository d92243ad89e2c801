package kube_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestCluster_AnswersAsTheVersionItIsBuiltFrom(t *testing.T) {
	client, _ := clientFor(t, theCluster(t))
	v, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if v.GitVersion != "v1.36.3" || v.Major != "1" || v.Minor != "36" {
		t.Errorf("server version = %s (%s.%s), want v1.36.3 (1.36)", v.GitVersion, v.Major, v.Minor)
	}
}

func TestCluster_DeniesAnUnknownUser(t *testing.T) {
	_, cfg := clientFor(t, theCluster(t))
	stranger := rest.CopyConfig(cfg)
	stranger.Impersonate.UserName = "stranger"
	client := kubernetes.NewForConfigOrDie(stranger)
	_, err := client.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("list of secrets as a stranger = %v, want forbidden", err)
	}
}

func TestCluster_RestartsWithItsObjects(t *testing.T) {
	c := theCluster(t)
	client, _ := clientFor(t, c)
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(); err != nil {
		t.Errorf("stop = %v, want nil", err)
	}
	again, err := start(config(shared.dir + "/test"))
	if err != nil {
		t.Fatal(err)
	}
	*c = *again
	client, _ = clientFor(t, c)
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("config map after a restart: %v", err)
	}
}
