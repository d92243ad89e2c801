package storage_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"gondola"
	"gondola/internal/gondolatest"
	"gondola/internal/kube"
	"gondola/internal/kube/kubetest"
)

var (
	apiAddress = netip.MustParseAddr("10.99.2.1")
	nearNode   = netip.MustParseAddr("10.99.2.2")
	farNode    = netip.MustParseAddr("10.99.2.3")
)

func TestMain(m *testing.M) { os.Exit(kubetest.InNetNS(m, apiAddress, nearNode, farNode)) }

// cluster is one that runs over two regions.
type cluster struct {
	*gondolatest.Platform
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

// begin starts a cluster over the regions near and far, whose disks have so many GiB free.
func begin(t *testing.T, near, far int64) *cluster {
	t.Helper()
	kubetest.NeedNetNS(t)
	machines := gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"near", "far"}, Total: gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30},
		Disk: map[gondola.Region]int64{"near": near << 30, "far": far << 30}})
	k, err := kubetest.Start(kube.Config{Name: "test", Dir: filepath.Join(t.TempDir(), "cluster"), Address: apiAddress, Upstream: []string{},
		Nodes:    []kube.NodeConfig{{Name: "near", Region: "near", Addresses: []netip.Addr{nearNode}}, {Name: "far", Region: "far", Addresses: []netip.Addr{farNode}}},
		Platform: machines.Client, Apps: machines.Client,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Stop(); err != nil {
			t.Errorf("end of the cluster: %v", err)
		}
	})
	c := &cluster{Platform: machines, client: k.Client, dynamic: dynamic.NewForConfigOrDie(k.REST)}
	eventually(t, "classes are there", func() error {
		_, err := c.client.StorageV1().StorageClasses().Get(t.Context(), "gondola-retain", metav1.GetOptions{})
		return err
	})
	return c
}

// eventually tries f until it succeeds, for half a minute.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	tick, end := time.NewTicker(50*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
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

// event waits for an Event about an object whose message has these words.
func (c *cluster) event(t *testing.T, namespace, name, reason, words string) {
	t.Helper()
	eventually(t, reason+" of "+name, func() error {
		list, err := c.client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var have []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, words) {
				return nil
			}
			have = append(have, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("no Event %s with %q; there are %q", reason, words, have)
	})
}

// namespace makes one for the test, with its service account.
func (c *cluster) namespace(t *testing.T, name string) {
	t.Helper()
	if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "service account default", func() error {
		_, err := c.client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
}
