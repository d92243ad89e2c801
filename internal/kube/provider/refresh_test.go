package provider_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestConfigMapThatIsGone_LeavesOtherFilesFresh(t *testing.T) {
	s := theSystem(t)
	ns := s.namespace(t)
	maps := s.Client.CoreV1().ConfigMaps(ns)
	p := pod("reader", "watch", "/etc/stays/word")
	for _, name := range []string{"goes", "stays"} {
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"word": "first"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/etc/" + name})
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}})
	}
	s.create(t, ns, p)
	s.until(t, ns, "reader", phase(corev1.PodRunning))
	if err := maps.Delete(t.Context(), "goes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Update(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "stays"}, Data: map[string]string{"word": "second"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "log", func() error {
		got, err := s.logs(t, ns, "reader", corev1.PodLogOptions{})
		if err == nil && !strings.Contains(got, "second") {
			err = fmt.Errorf("%q has no %q", got, "second")
		}
		return err
	})
	if got, err := s.exec(t, ns, "reader", false, nil, "/program", "read", "/etc/goes/word"); err != nil || got != "first" {
		t.Errorf("the file of the ConfigMap that is gone = %q, %v, want it as it was", got, err)
	}
}
