package provider

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authorized lets those through who may: the API server by the certificate that kubeadm gives it, administrators, and whom the API server
// says may do with nodes/<subresource> what the request wants (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/).
// Callers are known by a certificate of the cluster's authority or by a bearer token.
func (k *kubelet) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && mayUse(r.TLS.PeerCertificates[0]) {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		user, err := k.caller(ctx, r)
		if err != nil || user == nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		allowed, err := k.allows(ctx, user, r)
		switch {
		case err != nil:
			http.Error(w, "Authorization error: "+err.Error(), http.StatusInternalServerError)
		case !allowed:
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Username, verbOf(r), subresourceOf(r.URL.Path)), http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// caller says who asks, nil if nobody that is known.
func (k *kubelet) caller(ctx context.Context, r *http.Request) (*authenticationv1.UserInfo, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return userOf(r.TLS.PeerCertificates[0]), nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return nil, nil
	}
	review, err := k.node.engine.admin.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated {
		return nil, err
	}
	return &review.Status.User, nil
}

func userOf(c *x509.Certificate) *authenticationv1.UserInfo {
	return &authenticationv1.UserInfo{Username: c.Subject.CommonName, Groups: append([]string{"system:authenticated"}, c.Subject.Organization...)}
}

// allows asks the API server.
func (k *kubelet) allows(ctx context.Context, user *authenticationv1.UserInfo, r *http.Request) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	review, err := k.node.engine.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verbOf(r), Version: "v1", Resource: "nodes", Subresource: subresourceOf(r.URL.Path), Name: k.node.Name}},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

func verbOf(r *http.Request) string {
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	default:
		return "get"
	}
}

// subresourceOf is the part of a node that a path is about.
func subresourceOf(path string) string {
	for prefix, sub := range map[string]string{"/stats": "stats", "/metrics": "metrics", "/healthz": "healthz"} {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			return sub
		}
	}
	return "proxy"
}
