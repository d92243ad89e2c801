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

	mu        sync.Mutex
	tries     []gondola.AppName
	dropped   chan gondola.AppName
	volumes   []gondola.Volume
	snapshots []gondola.VolumeSnapshot
	away      error // of ListSnapshots
}

func (d *droppable) App(_ context.Context, name gondola.AppName) (gondola.App, error) {
	return gondola.App{Name: name, Network: "demo"}, nil
}

func (d *droppable) ListVolumes(context.Context, gondola.AppName) ([]gondola.Volume, error) {
	return d.volumes, nil
}

func (d *droppable) ListSnapshots(_ context.Context, ref gondola.VolumeRef) ([]gondola.VolumeSnapshot, error) {
	if ref.ID != "" {
		return nil, gondola.Errorf(gondola.ErrNotFound, "volume not found: %s", ref.ID)
	}
	return d.snapshots, d.away
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

// dropping is the engine of a cluster that has the namespace back.
func dropping(t *testing.T, d *droppable) *engine {
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
	t.Cleanup(api.Close)
	admin, err := kubernetes.NewForConfig(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	return newEngine(Config{Cluster: "demo", Network: "demo", Platform: d, Apps: d}, slog.New(slog.DiscardHandler), admin)
}

func TestDropApp_TriesAgainAndNeverWhileTheNamespaceIsThere(t *testing.T) {
	d := &droppable{dropped: make(chan gondola.AppName, 1)}
	e := dropping(t, d)
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

// TestDropApp_AsksNoWorkerWhileTheNamespaceIsThere: one that is away keeps nobody waiting then.
func TestDropApp_AsksNoWorkerWhileTheNamespaceIsThere(t *testing.T) {
	d := &droppable{away: gondola.Errorf(gondola.ErrUnavailable, "worker fra is not connected")}
	p := &Provider{engine: dropping(t, d)}
	if err := p.DropApp(t.Context(), "back"); err != nil {
		t.Errorf("DropApp = %v", err)
	}
	if err := p.DropApp(t.Context(), "gone"); !errors.Is(err, gondola.ErrUnavailable) || len(d.tries) > 0 {
		t.Errorf("DropApp of one whose snapshots cannot be listed = %v, and DeleteApp was called for %v", err, d.tries)
	}
}

// TestDropApp_KeepsAnAppThatHoldsData: what is retained outlives its namespace, a snapshot its Volume too.
func TestDropApp_KeepsAnAppThatHoldsData(t *testing.T) {
	for what, d := range map[string]*droppable{
		"a volume":   {volumes: []gondola.Volume{{ID: gondola.NewVolumeID()}}},
		"a snapshot": {snapshots: []gondola.VolumeSnapshot{{ID: gondola.NewSnapshotID()}}},
	} {
		d.dropped = make(chan gondola.AppName, 3)
		p := &Provider{engine: dropping(t, d)}
		if err := p.DropApp(t.Context(), "gone"); err != nil || len(d.tries) > 0 {
			t.Errorf("with %s left, DropApp = %v and DeleteApp was called for %v", what, err, d.tries)
		}
		d.volumes, d.snapshots = nil, nil
		if err := p.DropApp(t.Context(), "gone"); err == nil {
			t.Errorf("after %s was deleted, DropApp = nil where DeleteApp fails", what)
		}
		if err := p.DropApp(t.Context(), "gone"); err != nil || len(d.dropped) == 0 {
			t.Errorf("after %s was deleted, DropApp = %v and the App is still there", what, err)
		}
	}
}
