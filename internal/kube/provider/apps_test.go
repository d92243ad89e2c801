package provider

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"gondola"
)

// droppable is a platform whose Apps all exist and are deleted at the second try.
type droppable struct {
	gondola.Platform
	gondola.Apps

	mu      sync.Mutex
	tries   []gondola.AppName
	dropped chan gondola.AppName
}

func (d *droppable) App(_ context.Context, name gondola.AppName) (gondola.App, error) {
	return gondola.App{Name: name, Network: "demo"}, nil
}

func (d *droppable) ListVolumes(context.Context, gondola.AppName) ([]gondola.Volume, error) {
	return nil, nil
}

func (d *droppable) DeleteApp(_ context.Context, name gondola.AppName) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	again := slices.Contains(d.tries, name)
	if d.tries = append(d.tries, name); !again {
		return errors.New("a worker is away")
	}
	d.dropped <- name
	return nil
}

func TestDropApp_TriesAgainAndNeverWhileTheNamespaceIsThere(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/api/v1/namespaces/back" {
			_ = json.NewEncoder(w).Encode(corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: "back"}})
			return
		}
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
			Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
	}))
	defer api.Close()
	admin, err := kubernetes.NewForConfig(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	d := &droppable{dropped: make(chan gondola.AppName, 1)}
	e := newEngine(Config{Cluster: "demo", Network: "demo", Platform: d, Apps: d}, slog.New(slog.DiscardHandler), admin)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.dropApps(ctx) }()
	defer func() { cancel(); <-done }()
	e.drops.Add("back")
	e.drops.Add("gone")
	select {
	case name := <-d.dropped:
		if name != gondola.AppOfNamespace("demo", "gone") {
			t.Errorf("%s was deleted", name)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the App of a namespace that is gone is still there")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(d.tries, gondola.AppOfNamespace("demo", "back")) {
		t.Error("the Machines of a namespace that is there again were destroyed")
	}
}
