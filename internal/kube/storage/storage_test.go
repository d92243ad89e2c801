package storage_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"gondola"
	"gondola/internal/kube/storage"
	"gondola/internal/kube/translate"
)

var snapshots = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
var contents = snapshots.GroupVersion().WithResource("volumesnapshotcontents")

// TestStorage runs one cluster over a platform of two regions, whose disks have 10 and 40 GiB, for all that it shows.
func TestStorage(t *testing.T) {
	c := begin(t, 10, 40)
	c.class(t, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}})
	c.class(t, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "far"}, AllowedTopologies: []corev1.TopologySelectorTerm{
		{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyRegion, Values: []string{"far"}}}}}})
	t.Run("MakesAVolumeAtOnceForAnImmediateClass", c.immediate)
	t.Run("HonoursAllowedTopologies", c.topologies)
	t.Run("WaitsForTheFirstPodAndGoesWhereThereIsRoom", c.waits)
	t.Run("GivesAVolumeToOnePodAtATime", c.oneAtATime)
	t.Run("PassesTheVolumeOfAJobOn", c.passesOn)
	t.Run("SendsAPodWhereTheCopyOfItsClaimCanBe", c.pins)
	t.Run("RefusesWhatAVolumeCannotBe", c.refuses)
	t.Run("GrowsAClaim", c.grows)
	t.Run("KeepsRetainedVolumes", c.retains)
	t.Run("TellsThatAVolumeVanished", c.vanished)
	t.Run("LeavesNothingOfAClaimThatWasDeletedEarly", c.early)
	t.Run("TakesSnapshotsAndMakesClaimsFromThem", c.snapshotsAndClones)
	t.Run("FindsASnapshotThatIsThere", c.preProvisioned)
	t.Run("TakesASnapshotOfAClaimThatIsDeletedAtOnce", c.snapshotInTime)
	t.Run("SendsAPodWhereTheSnapshotOfAClaimThatIsGoneIs", c.restores)
	t.Run("KeepsARetainedSnapshotWhenItsNamespaceGoes", c.retainsSnapshots)
	t.Run("ForgetsANamespaceWithItsVolumes", c.forgets)
}

// class makes a StorageClass of ours that binds immediately.
func (c *cluster) class(t *testing.T, class *storagev1.StorageClass) {
	t.Helper()
	now, yes := storagev1.VolumeBindingImmediate, true
	class.Provisioner, class.VolumeBindingMode, class.AllowVolumeExpansion = storage.Driver, &now, &yes
	if _, err := c.client.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func claim(name, class, size string) *corev1.PersistentVolumeClaim {
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}}
	if class != "" {
		pvc.Spec.StorageClassName = &class
	}
	return pvc
}

func (c *cluster) make(t *testing.T, namespace string, pvc *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	t.Helper()
	made, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Create(t.Context(), pvc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// bound waits until a claim is bound and returns it with its PersistentVolume and Volume.
func (c *cluster) bound(t *testing.T, namespace, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, gondola.Volume) {
	t.Helper()
	var pvc *corev1.PersistentVolumeClaim
	eventually(t, "claim "+name+" is bound", func() (err error) {
		if pvc, err = c.client.CoreV1().PersistentVolumeClaims(namespace).Get(t.Context(), name, metav1.GetOptions{}); err == nil && pvc.Status.Phase != corev1.ClaimBound {
			err = fmt.Errorf("it is %s: %v", pvc.Status.Phase, pvc.Annotations)
		}
		return err
	})
	pv, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), pvc.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := translate.PersistentVolumeRef(pv)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := c.Volume(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return pvc, pv, vol
}

func (c *cluster) drop(t *testing.T, namespace, name string) {
	t.Helper()
	if err := c.client.CoreV1().PersistentVolumeClaims(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// left waits until the platform has so many Volumes of an App.
func (c *cluster) left(t *testing.T, app gondola.AppName, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d volumes of %s", want, app), func() error {
		list, err := c.ListVolumes(t.Context(), app)
		if errors.Is(err, gondola.ErrNotFound) {
			list, err = nil, nil // no such App
		}
		if err != nil || len(list) != want {
			return fmt.Errorf("there are %v (%v)", list, err)
		}
		return nil
	})
}

func (c *cluster) immediate(t *testing.T) {
	c.make(t, "default", claim("quick", "now", "1500Mi"))
	pvc, pv, vol := c.bound(t, "default", "quick")
	if got := pvc.Status.Capacity.Storage().String(); got != "2Gi" || vol.SizeGB != 2 {
		t.Errorf("a claim of 1500Mi has %s (volume %d GiB), want 2Gi", got, vol.SizeGB)
	}
	if vol.App != "test-default" || pv.Spec.CSI.Driver != storage.Driver {
		t.Errorf("its volume is of app %s and driver %s", vol.App, pv.Spec.CSI.Driver)
	}
	terms := pv.Spec.NodeAffinity.Required.NodeSelectorTerms
	if len(terms) != 1 || terms[0].MatchExpressions[0].Key != corev1.LabelTopologyRegion || terms[0].MatchExpressions[0].Values[0] != string(vol.Region) {
		t.Errorf("its node affinity is %v, want region %s", terms, vol.Region)
	}
	c.drop(t, "default", "quick")
	c.left(t, "test-default", 0)
	eventually(t, "the PersistentVolume goes", func() error {
		if _, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
}

func (c *cluster) topologies(t *testing.T) {
	c.make(t, "default", claim("there", "far", "1Gi"))
	if _, _, vol := c.bound(t, "default", "there"); vol.Region != "far" {
		t.Errorf("the volume is in %s, want far", vol.Region)
	}
	c.drop(t, "default", "there")
	c.left(t, "test-default", 0)
}

// waits: the Pod prefers near, which has no room for the volume.
func (c *cluster) waits(t *testing.T) {
	c.make(t, "default", claim("big", "", "20Gi"))
	c.event(t, "default", "big", "WaitForFirstConsumer", "waiting for first consumer")
	c.left(t, "test-default", 0)
	user := pod("user", "big", "run")
	user.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 100,
		Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyRegion, Operator: corev1.NodeSelectorOpIn, Values: []string{"near"}}}}}}}}
	c.start(t, user)
	if _, _, vol := c.bound(t, "default", "big"); vol.Region != "far" {
		t.Errorf("the volume is in %s, want far, which has room", vol.Region)
	}
	if p := c.runs(t, "user"); p.Spec.NodeName != "far" {
		t.Errorf("the Pod is on %s, want far", p.Spec.NodeName)
	}
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), "user", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	c.drop(t, "default", "big")
	c.left(t, "test-default", 0)
}

func (c *cluster) refuses(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	for name, row := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim)
		words  string
	}{
		"shared": {func(p *corev1.PersistentVolumeClaim) {
			p.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, "accessMode ReadWriteMany is not supported"},
		"block": {func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeMode = &block }, "volumeMode Block is not supported"},
		"huge": {func(p *corev1.PersistentVolumeClaim) {
			p.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("1Ti")
		}, "at most 500 GiB"},
		"full": {func(p *corev1.PersistentVolumeClaim) {
			p.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("100Gi")
		}, "far"},
		"orphan": {func(p *corev1.PersistentVolumeClaim) {
			p.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "nobody"}
		}, "claim nobody is not there"},
	} {
		pvc := claim(name, "now", "1Gi")
		row.change(pvc)
		c.make(t, "default", pvc)
		c.event(t, "default", name, "ProvisioningFailed", row.words)
		c.drop(t, "default", name)
	}
	c.left(t, "test-default", 0)
}

// grow asks for another size.
func (c *cluster) grow(t *testing.T, name, size string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"resources":{"requests":{"storage":%q}}}}`, size)
	if _, err := c.client.CoreV1().PersistentVolumeClaims("default").Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) grows(t *testing.T) {
	c.make(t, "default", claim("small", "far", "1Gi"))
	c.bound(t, "default", "small")
	has := func(want string, conditions int) func() error {
		return func() error {
			pvc, pv, _ := c.bound(t, "default", "small")
			if got := pvc.Status.Capacity.Storage().String(); got != want || pv.Spec.Capacity.Storage().String() != want || len(pvc.Status.Conditions) != conditions {
				return fmt.Errorf("the claim has %s, its PersistentVolume %s, conditions %v", got, pv.Spec.Capacity.Storage(), pvc.Status.Conditions)
			}
			return nil
		}
	}
	c.grow(t, "small", "3Gi")
	eventually(t, "3Gi", has("3Gi", 0))
	c.event(t, "default", "small", "VolumeResizeSuccessful", "3 GiB")
	c.grow(t, "small", "90Gi")
	c.event(t, "default", "small", "VolumeResizeFailed", "87 GB wanted")
	eventually(t, "what went wrong is in the status", has("3Gi", 2))
	c.grow(t, "small", "4Gi") // the wish is taken back
	eventually(t, "4Gi", has("4Gi", 0))
	c.drop(t, "default", "small")
	c.left(t, "test-default", 0)
}

func (c *cluster) retains(t *testing.T) {
	now, keep := storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimRetain
	if _, err := c.client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "keep"},
		Provisioner: storage.Driver, VolumeBindingMode: &now, ReclaimPolicy: &keep}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.make(t, "default", claim("kept", "keep", "1Gi"))
	_, pv, vol := c.bound(t, "default", "kept")
	c.drop(t, "default", "kept")
	eventually(t, "it is Released", func() error {
		got, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{})
		if err != nil || got.Status.Phase != corev1.VolumeReleased {
			return fmt.Errorf("it is %v (%v)", got.Status.Phase, err)
		}
		return nil
	})
	if err := c.client.CoreV1().PersistentVolumes().Delete(t.Context(), pv.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the object goes", func() error {
		if _, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
	c.left(t, "test-default", 1)
	if _, err := c.PurgeVolume(t.Context(), gondola.VolumeRef{App: vol.App, ID: vol.ID}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) vanished(t *testing.T) {
	c.make(t, "default", claim("lost", "now", "1Gi"))
	_, pv, vol := c.bound(t, "default", "lost")
	if _, err := c.PurgeVolume(t.Context(), gondola.VolumeRef{App: vol.App, ID: vol.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.CoreV1().PersistentVolumes().Patch(t.Context(), pv.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"look":"again"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.event(t, "default", "lost", "VolumeLost", "is not on the platform any more")
	c.drop(t, "default", "lost")
	eventually(t, "the PersistentVolume goes", func() error {
		if _, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
}

func (c *cluster) early(t *testing.T) {
	for i := range 5 {
		name := fmt.Sprintf("early-%d", i)
		c.make(t, "default", claim(name, "now", "1Gi"))
		c.drop(t, "default", name)
	}
	eventually(t, "no claim", func() error {
		list, err := c.client.CoreV1().PersistentVolumeClaims("default").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) > 0 {
			return fmt.Errorf("%d are there (%v)", len(list.Items), err)
		}
		return nil
	})
	c.left(t, "test-default", 0)
}

func snapshot(name, claim string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
		"metadata": map[string]any{"name": name, "namespace": "default"}, "spec": map[string]any{"source": map[string]any{"persistentVolumeClaimName": claim}}}}
}

// ready waits until a VolumeSnapshot can be used and returns the name of its content.
func (c *cluster) ready(t *testing.T, namespace, name string) string {
	t.Helper()
	var content string
	eventually(t, "snapshot "+name+" is ready", func() error {
		o, err := c.dynamic.Resource(snapshots).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if ready, _, _ := unstructured.NestedBool(o.Object, "status", "readyToUse"); !ready {
			return fmt.Errorf("its status is %v", o.Object["status"])
		}
		content, _, _ = unstructured.NestedString(o.Object, "status", "boundVolumeSnapshotContentName")
		return nil
	})
	return content
}

func (c *cluster) snapshotsAndClones(t *testing.T) {
	c.make(t, "default", claim("source", "far", "2Gi"))
	_, _, vol := c.bound(t, "default", "source")
	ref := gondola.VolumeRef{App: vol.App, ID: vol.ID}
	eventually(t, "a snapshot is taken", func() error {
		_, err := c.dynamic.Resource(snapshots).Namespace("default").Create(t.Context(), snapshot("snap", "source"), metav1.CreateOptions{})
		return err
	})
	c.ready(t, "default", "snap")
	taken, _ := c.ListSnapshots(t.Context(), ref)
	if len(taken) != 1 {
		t.Fatalf("the platform has the snapshots %v, want one", taken)
	}

	group := snapshots.Group
	restored, copied, tight := claim("restored", "now", "2Gi"), claim("copied", "now", "3Gi"), claim("tight", "now", "1Gi")
	restored.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "snap"}
	copied.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "source"}
	tight.Spec.DataSource = restored.Spec.DataSource
	for _, pvc := range []*corev1.PersistentVolumeClaim{restored, copied, tight} {
		c.make(t, "default", pvc)
	}
	c.event(t, "default", "tight", "ProvisioningFailed", "is smaller than VolumeSnapshot snap")
	for name, from := range map[string]string{"restored": taken[0].ID, "copied": string(vol.ID)} {
		_, _, made := c.bound(t, "default", name)
		if made.Region != "far" {
			t.Errorf("%s is in %s, want far, where %s is", name, made.Region, from)
		}
	}
	if err := c.dynamic.Resource(snapshots).Namespace("default").Delete(t.Context(), "snap", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the snapshot goes", func() error {
		if left, _ := c.ListSnapshots(t.Context(), ref); len(left) > 0 {
			return fmt.Errorf("the platform has %v", left)
		}
		list, err := c.dynamic.Resource(contents).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) > 0 {
			return fmt.Errorf("%d contents are there (%v)", len(list.Items), err)
		}
		return nil
	})
	for _, name := range []string{"tight", "copied", "restored", "source"} {
		c.drop(t, "default", name)
	}
	c.left(t, "test-default", 0)
}

func (c *cluster) preProvisioned(t *testing.T) {
	c.make(t, "default", claim("source", "now", "1Gi"))
	_, _, vol := c.bound(t, "default", "source")
	ref := gondola.VolumeRef{App: vol.App, ID: vol.ID}
	taken, err := c.SnapshotVolume(t.Context(), ref, "vs_0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	content := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
		"metadata": map[string]any{"name": "found"}, "spec": map[string]any{"deletionPolicy": "Retain", "driver": storage.Driver,
			"source":            map[string]any{"snapshotHandle": strings.Join([]string{string(ref.App), string(ref.ID), taken.ID}, "/")},
			"volumeSnapshotRef": map[string]any{"name": "found", "namespace": "default"}}}}
	if _, err := c.dynamic.Resource(contents).Create(t.Context(), content, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := snapshot("found", "")
	s.Object["spec"] = map[string]any{"source": map[string]any{"volumeSnapshotContentName": "found"}}
	if _, err := c.dynamic.Resource(snapshots).Namespace("default").Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.ready(t, "default", "found")
	if err := c.dynamic.Resource(snapshots).Namespace("default").Delete(t.Context(), "found", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the VolumeSnapshot goes", func() error {
		if _, err := c.dynamic.Resource(snapshots).Namespace("default").Get(t.Context(), "found", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
	if left, _ := c.ListSnapshots(t.Context(), ref); len(left) != 1 {
		t.Errorf("the platform has the snapshots %v, want the retained one", left)
	}
	c.drop(t, "default", "source")
	c.left(t, "test-default", 0)
}

// take asks for a snapshot of a claim that is kept when its VolumeSnapshot goes.
func (c *cluster) take(t *testing.T, namespace, name, claim string) {
	t.Helper()
	s := snapshot(name, claim)
	s.SetNamespace(namespace)
	s.Object["spec"].(map[string]any)["volumeSnapshotClassName"] = storage.ClassRetain
	if _, err := c.dynamic.Resource(snapshots).Namespace(namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// untake deletes a VolumeSnapshot with its content, and then the snapshot, which is retained.
func (c *cluster) untake(t *testing.T, name, content string) {
	t.Helper()
	handle := c.handle(t, content)
	err := errors.Join(c.dynamic.Resource(snapshots).Namespace("default").Delete(t.Context(), name, metav1.DeleteOptions{}),
		c.dynamic.Resource(contents).Delete(t.Context(), content, metav1.DeleteOptions{}),
		c.DeleteSnapshot(t.Context(), gondola.VolumeRef{App: "test-default"}, handle[strings.LastIndex(handle, "/")+1:]))
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) handle(t *testing.T, content string) string {
	t.Helper()
	o, err := c.dynamic.Resource(contents).Get(t.Context(), content, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	handle, _, _ := unstructured.NestedString(o.Object, "status", "snapshotHandle")
	return handle
}

func (c *cluster) snapshotInTime(t *testing.T) {
	c.make(t, "default", claim("short", "now", "1Gi"))
	c.bound(t, "default", "short")
	c.take(t, "default", "in-time", "short")
	c.drop(t, "default", "short")
	content := c.ready(t, "default", "in-time")
	c.left(t, "test-default", 0)
	c.untake(t, "in-time", content)
}

// restores: near is as good as far for Pods, but the snapshot is in far, and its Volume is gone.
func (c *cluster) restores(t *testing.T) {
	c.make(t, "default", claim("source", "far", "1Gi"))
	c.bound(t, "default", "source")
	c.take(t, "default", "moved", "source")
	content := c.ready(t, "default", "moved")
	c.drop(t, "default", "source")
	c.left(t, "test-default", 0)
	group := snapshots.Group
	for i := range 3 {
		name := fmt.Sprintf("restored-%d", i)
		pvc := claim(name, "", "1Gi")
		pvc.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "moved"}
		c.make(t, "default", pvc)
		c.start(t, pod(name, name, "run"))
	}
	for i := range 3 {
		name := fmt.Sprintf("restored-%d", i)
		if p := c.runs(t, name); p.Spec.NodeName != "far" {
			t.Errorf("%s runs on %s, want far", name, p.Spec.NodeName)
		}
		c.remove(t, name)
		c.drop(t, "default", name)
	}
	c.left(t, "test-default", 0)
	c.untake(t, "moved", content)
}

func (c *cluster) retainsSnapshots(t *testing.T) {
	c.namespace(t, "shop")
	c.make(t, "shop", claim("source", "far", "1Gi"))
	_, pv, _ := c.bound(t, "shop", "source")
	c.take(t, "shop", "kept", "source")
	old := c.ready(t, "shop", "kept")
	handle := c.handle(t, old)
	c.end(t, "shop")
	eventually(t, "the PersistentVolume goes", func() error {
		if _, err := c.client.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})

	// A namespace of that name finds it.
	c.namespace(t, "shop")
	content := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
		"metadata": map[string]any{"name": "back"}, "spec": map[string]any{"deletionPolicy": "Delete", "driver": storage.Driver,
			"source": map[string]any{"snapshotHandle": handle}, "volumeSnapshotRef": map[string]any{"name": "back", "namespace": "shop"}}}}
	if _, err := c.dynamic.Resource(contents).Create(t.Context(), content, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := snapshot("back", "")
	s.SetNamespace("shop")
	s.Object["spec"] = map[string]any{"source": map[string]any{"volumeSnapshotContentName": "back"}}
	if _, err := c.dynamic.Resource(snapshots).Namespace("shop").Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.ready(t, "shop", "back")
	group := snapshots.Group
	restored := claim("restored", "now", "1Gi")
	restored.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "back"}
	c.make(t, "shop", restored)
	if _, _, vol := c.bound(t, "shop", "restored"); vol.Region != "far" {
		t.Errorf("what was restored is in %s, want far, where the snapshot is", vol.Region)
	}

	// Whoever deletes the last thing takes the App along.
	if err := c.dynamic.Resource(contents).Delete(t.Context(), old, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.end(t, "shop")
	c.without(t, "test-shop")
}

// end deletes a namespace and waits until it is gone.
func (c *cluster) end(t *testing.T, namespace string) {
	t.Helper()
	if err := c.client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace goes", func() error {
		if _, err := c.client.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
}

// without waits until there is no such App.
func (c *cluster) without(t *testing.T, name gondola.AppName) {
	t.Helper()
	eventually(t, "its App goes", func() error {
		app, err := c.App(t.Context(), name)
		if !errors.Is(err, gondola.ErrNotFound) {
			return fmt.Errorf("it is there with %d volumes (%v)", app.VolumeCount, err)
		}
		return nil
	})
}

func (c *cluster) forgets(t *testing.T) {
	c.namespace(t, "team")
	c.make(t, "team", claim("a", "now", "1Gi"))
	c.make(t, "team", claim("b", "far", "1Gi"))
	c.bound(t, "team", "a")
	c.bound(t, "team", "b")
	c.end(t, "team")
	c.without(t, "test-team")
}
