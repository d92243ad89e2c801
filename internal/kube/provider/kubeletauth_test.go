package provider

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// reviewer is an API server that allows everybody one subresource of nodes, and knows everybody.
type reviewer struct{ allows string }

func (a reviewer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var review authorizationv1.SubjectAccessReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, err
	}
	if bytes.Contains(body, []byte("TokenReview")) {
		io.WriteString(w, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":true,"user":{"username":"prometheus"}}}`)
		return w.Result(), nil
	}
	review.Status.Allowed = review.Spec.ResourceAttributes.Subresource == a.allows
	if err := json.NewEncoder(w).Encode(&review); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func TestKubelet_EachPathNeedsItsPartOfTheNodeOrProxy(t *testing.T) {
	all := []string{"stats", "metrics", "log", "checkpoint", "statusz", "configz", "healthz", "pods", "proxy"}
	for path, needs := range map[string][]string{
		"/pods": {"pods", "proxy"}, "/pods/": {"pods", "proxy"}, "/runningpods/": {"pods", "proxy"}, "/podsandmore": {"proxy"},
		"/healthz": {"healthz", "proxy"}, "/healthz/ping": {"healthz", "proxy"}, "/configz": {"configz", "proxy"}, "/flagz": {"configz"}, "/statusz": {"statusz"},
		"/logs/x": {"log"}, "/checkpoint/ns/pod/c": {"checkpoint"}, "/stats/summary": {"stats"}, "/metrics": {"metrics"}, "/metrics/resource": {"metrics"},
		"/containerLogs/ns/pod/c": {"proxy"}, "/exec/ns/pod/c": {"proxy"}, "/": {"proxy"},
	} {
		for _, has := range all {
			admin, err := kubernetes.NewForConfig(&rest.Config{Host: "http://api", Transport: reviewer{allows: has}, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
			if err != nil {
				t.Fatal(err)
			}
			k := &kubelet{node: &node{Node: Node{Name: "fra"}, engine: &engine{admin: admin}}}
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header.Set("Authorization", "Bearer x")
			w := httptest.NewRecorder()
			k.authorized(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })).ServeHTTP(w, r)
			want := http.StatusForbidden
			if slices.Contains(needs, has) {
				want = http.StatusNoContent
			}
			if w.Code != want {
				t.Errorf("GET %s with nodes/%s = %d %s, want %d", path, has, w.Code, w.Body, want)
			}
		}
	}
}
