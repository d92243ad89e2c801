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
// says may do with nodes/<subresource> what the request wants (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/);
// where there are two, either will do.
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
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verbOf(r), subresourcesOf(r.URL.Path)), http.StatusForbidden)
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
	for _, sub := range subresourcesOf(r.URL.Path) {
		review, err := k.node.engine.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verbOf(r), Version: "v1", Resource: "nodes", Subresource: sub, Name: k.node.Name}},
		}, metav1.CreateOptions{})
		if err != nil || review.Status.Allowed {
			return err == nil, err
		}
	}
	return false, nil
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

// subresourcesOf are the parts of a node that a path is about, as a kubelet has them (pkg/kubelet/server/auth.go): each is enough. What has a name
// of its own since KubeletFineGrainedAuthz is nodes/proxy too, so that nobody needs that for it any more, and who has it keeps what it could do.
func subresourcesOf(path string) []string {
	for _, part := range []struct {
		prefix string
		subs   []string
	}{
		{"/stats", []string{"stats"}}, {"/metrics", []string{"metrics"}}, {"/logs", []string{"log"}}, {"/checkpoint", []string{"checkpoint"}},
		{"/statusz", []string{"statusz"}}, {"/flagz", []string{"configz"}}, {"/configz", []string{"configz", "proxy"}},
		{"/healthz", []string{"healthz", "proxy"}}, {"/pods", []string{"pods", "proxy"}}, {"/runningpods", []string{"pods", "proxy"}},
	} {
		if path == part.prefix || strings.HasPrefix(path, part.prefix+"/") {
			return part.subs
		}
	}
	return []string{"proxy"}
}
