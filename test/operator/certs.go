package main

import (
	"context"
	"encoding/base64"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/cert"
)

// certs makes the certificate of the webhooks' Service, once, and hands it to all who have to trust it.
func (o *operator) certs(ctx context.Context) error {
	host := "operator." + o.namespace + ".svc"
	secrets := o.clients.CoreV1().Secrets(o.namespace)
	secret, err := secrets.Get(ctx, "operator-certs", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		// The certificate comes with its authority behind it.
		crt, key, failed := cert.GenerateSelfSignedCertKey(host, nil, []string{host})
		if failed != nil {
			return failed
		}
		secret, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "operator-certs"}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{"tls.crt": crt, "tls.key": key}}, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	bundle := base64.StdEncoding.EncodeToString(secret.Data["tls.crt"])
	hook := []byte(fmt.Sprintf(`[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":%q}]`, bundle))
	conversion := []byte(fmt.Sprintf(`[{"op":"add","path":"/spec/conversion/webhook/clientConfig/caBundle","value":%q}]`, bundle))
	admission := schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}
	for _, p := range []struct {
		resource schema.GroupVersionResource
		name     string
		patch    []byte
	}{
		{admission.WithResource("mutatingwebhookconfigurations"), "sites", hook},
		{admission.WithResource("validatingwebhookconfigurations"), "sites", hook},
		{schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, "sites." + group, conversion},
	} {
		if _, err := o.objects.Resource(p.resource).Patch(ctx, p.name, types.JSONPatchType, p.patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("%s %s: %w", p.resource.Resource, p.name, err)
		}
	}
	return nil
}
