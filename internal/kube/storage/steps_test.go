package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"gondola"
	"gondola/internal/gondolatest"
	"gondola/internal/kube/translate"
)

// steps is a Controller over a platform with the regions near and far, and over an API server of client-go's fakes: for what a real one hardly ever lets
// happen, or lets happen too fast. A test takes its steps one by one, and says with see what it has heard of.
type steps struct {
	*Controller
	t       *testing.T
	p       *gondolatest.Platform
	kube    *fake.Clientset
	custom  *dynamicfake.FakeDynamicClient
	indexes map[string]cache.Indexer
	dropped []string // namespaces whose Apps were to be dropped
	stuck   error    // of DropApp
}

// EnsureApp implements Apps.
func (s *steps) EnsureApp(context.Context, string) error { return nil }

// DropApp implements Apps.
func (s *steps) DropApp(_ context.Context, namespace string) error {
	s.dropped = append(s.dropped, namespace)
	return s.stuck
}

const testApp = gondola.AppName("test-team")

func newSteps(t *testing.T) *steps {
	s := &steps{t: t, p: gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"near", "far"}}), kube: fake.NewClientset(), indexes: map[string]cache.Indexer{}}
	s.p.NewApp(testApp)
	s.custom = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		snapshotResource: "VolumeSnapshotList", contentResource: "VolumeSnapshotContentList", classResource: "VolumeSnapshotClassList"})
	index := func(kind string) cache.Indexer {
		s.indexes[kind] = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		return s.indexes[kind]
	}
	s.Controller = &Controller{
		cfg: Config{Cluster: "test", Regions: map[string]gondola.Region{"near": "near", "far": "far"}, Volumes: s.p.Client, Apps: s},
		log: slog.New(slog.DiscardHandler), client: s.kube, dynamic: s.custom, recorder: &record.FakeRecorder{}, refused: map[gondola.Region]refusal{},
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[item]()),
		claims:  corelisters.NewPersistentVolumeClaimLister(index("claims")),
		volumes: corelisters.NewPersistentVolumeLister(index("volumes")), classes: storagelisters.NewStorageClassLister(index("classes")),
	}
	wait, now := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	for name, mode := range map[string]*storagev1.VolumeBindingMode{"wait": &wait, "now": &now} {
		s.add("classes", &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: Driver, VolumeBindingMode: mode})
	}
	s.put(classResource, map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshotClass", "metadata": map[string]any{"name": "snaps"}, "driver": Driver, "deletionPolicy": "Retain"})
	return s
}

func (s *steps) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *steps) add(kind string, obj any) {
	s.t.Helper()
	s.must(s.indexes[kind].Add(obj))
}

// see lets the Controller know of all claims and PersistentVolumes as they are.
func (s *steps) see() {
	s.t.Helper()
	claims, err := s.kube.CoreV1().PersistentVolumeClaims("").List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	volumes, err := s.kube.CoreV1().PersistentVolumes().List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	var all []any
	for i := range claims.Items {
		all = append(all, &claims.Items[i])
	}
	s.must(s.indexes["claims"].Replace(all, ""))
	all = nil
	for i := range volumes.Items {
		all = append(all, &volumes.Items[i])
	}
	s.must(s.indexes["volumes"].Replace(all, ""))
}

func (s *steps) put(r schema.GroupVersionResource, o map[string]any) {
	s.t.Helper()
	u := &unstructured.Unstructured{Object: o}
	_, err := s.custom.Resource(r).Namespace(u.GetNamespace()).Create(s.t.Context(), u, metav1.CreateOptions{})
	s.must(err)
}

// newClaim puts a claim into the namespace team, changed by what.
func (s *steps) newClaim(name, class string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	s.t.Helper()
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name, UID: uuid.NewUUID(),
		Annotations: map[string]string{storagehelpers.AnnStorageProvisioner: Driver}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}}}}
	change(pvc)
	_, err := s.kube.CoreV1().PersistentVolumeClaims("team").Create(s.t.Context(), pvc, metav1.CreateOptions{})
	s.must(err)
	s.see()
	return pvc
}

// got returns a claim as it is.
func (s *steps) got(name string) *corev1.PersistentVolumeClaim {
	s.t.Helper()
	pvc, err := s.kube.CoreV1().PersistentVolumeClaims("team").Get(s.t.Context(), name, metav1.GetOptions{})
	s.must(err)
	return pvc
}

// step looks at a claim once.
func (s *steps) step(name string) error {
	s.t.Helper()
	s.see()
	_, err := s.claim(s.t.Context(), "team", name)
	return err
}

// newVolume makes a Volume of 1 GiB in far.
func (s *steps) newVolume() gondola.VolumeRef {
	s.t.Helper()
	v, err := s.p.CreateVolume(s.t.Context(), testApp, gondola.CreateVolumeRequest{Name: "data", SizeGB: 1, Region: "far"})
	s.must(err)
	return gondola.VolumeRef{App: testApp, ID: v.ID}
}

// newRow returns the PersistentVolume of a Volume, of a claim with the policy Delete.
func (s *steps) newRow(ref gondola.VolumeRef, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
	s.t.Helper()
	pv := persistentVolume(claim, &storagev1.StorageClass{}, ref, &gondola.Volume{SizeGB: 1, Region: "far"})
	pv.Status.Phase = phase
	_, err := s.kube.CoreV1().PersistentVolumes().Create(s.t.Context(), pv, metav1.CreateOptions{})
	s.must(err)
	s.see()
	return pv
}

// gone deletes a Volume for ever and lets the platform forget it, as after two days.
func (s *steps) gone(ref gondola.VolumeRef) {
	s.t.Helper()
	_, err := s.p.PurgeVolume(s.t.Context(), ref)
	s.must(err)
	s.must(s.p.Store.ForgetVolume(s.t.Context(), string(ref.ID)))
}

// imported puts a content and its VolumeSnapshot of a snapshot that is there, and looks at both.
func (s *steps) imported(name string, ref snapshotRef) error {
	s.t.Helper()
	s.put(contentResource, map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"driver": Driver, "deletionPolicy": "Retain", "source": map[string]any{"snapshotHandle": ref.handle()},
			"volumeSnapshotRef": map[string]any{"namespace": "team", "name": name}}})
	s.put(snapshotResource, map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshot", "metadata": map[string]any{"namespace": "team", "name": name, "uid": name + "-uid"},
		"spec": map[string]any{"source": map[string]any{"volumeSnapshotContentName": name}}})
	_, bound := s.snapshot(s.t.Context(), "team", name)
	_, found := s.content(s.t.Context(), name)
	_, told := s.snapshot(s.t.Context(), "team", name)
	return errors.Join(bound, found, told)
}

// ready says whether a VolumeSnapshotContent says that it is.
func (s *steps) ready(name string) bool {
	s.t.Helper()
	var o contentObject
	s.must(s.read(s.t.Context(), contentResource, "", name, &o))
	return o.Status.ReadyToUse != nil && *o.Status.ReadyToUse
}

func fromSnapshot(name string) func(*corev1.PersistentVolumeClaim) {
	group := snapshotResource.Group
	return func(pvc *corev1.PersistentVolumeClaim) {
		pvc.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: name}
	}
}

// choose chooses a node for a claim, as the scheduler does.
func (s *steps) choose(name, node string) {
	s.t.Helper()
	pvc := s.got(name)
	pvc.Annotations[storagehelpers.AnnSelectedNode] = node
	_, err := s.kube.CoreV1().PersistentVolumeClaims("team").Update(s.t.Context(), pvc, metav1.UpdateOptions{})
	s.must(err)
}

func TestClaim_OfASnapshotWhoseVolumeIsForgottenGoesWhereTheSnapshotIs(t *testing.T) {
	s := newSteps(t)
	ref := snapshotRef{volume: s.newVolume(), id: gondola.NewSnapshotID()}
	_, err := s.p.SnapshotVolume(t.Context(), ref.volume, ref.id)
	s.must(err)
	s.gone(ref.volume)
	s.must(s.imported("snap", ref))
	s.newClaim("restored", "wait", fromSnapshot("snap"))
	s.must(s.step("restored"))
	if got := s.got("restored").Annotations[translate.RegionAnnotation]; got != "far" {
		t.Errorf("the claim is pinned to %q before the scheduler chooses, want far", got)
	}
	s.choose("restored", "near") // it chose before it heard of that
	s.must(s.step("restored"))
	if node, still := s.got("restored").Annotations[storagehelpers.AnnSelectedNode]; still {
		t.Fatalf("node %s stays chosen, where the claim cannot be", node)
	}
	s.choose("restored", "far")
	s.must(s.step("restored"))
	pv, err := s.kube.CoreV1().PersistentVolumes().Get(t.Context(), volumeName(s.got("restored")), metav1.GetOptions{})
	if err != nil || pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] != "far" {
		t.Errorf("its PersistentVolume is %v (%v), want one in far", pv, err)
	}
}

// placeless is a platform whose snapshots do not tell where they are.
type placeless struct{ gondola.Volumes }

func (p placeless) ListSnapshots(ctx context.Context, ref gondola.VolumeRef) ([]gondola.VolumeSnapshot, error) {
	list, err := p.Volumes.ListSnapshots(ctx, ref)
	for i := range list {
		list[i].Region = ""
	}
	return list, err
}

func TestClaim_GivesANodeBackWhereThePlatformCannotMakeIt(t *testing.T) {
	s := newSteps(t)
	s.cfg.Volumes = placeless{s.p.Client}
	ref := snapshotRef{volume: s.newVolume(), id: gondola.NewSnapshotID()}
	_, err := s.p.SnapshotVolume(t.Context(), ref.volume, ref.id)
	s.must(err)
	s.must(s.imported("snap", ref))
	s.newClaim("restored", "wait", fromSnapshot("snap"))
	s.choose("restored", "near")
	s.must(s.step("restored"))
	if node, still := s.got("restored").Annotations[storagehelpers.AnnSelectedNode]; still {
		t.Errorf("node %s stays chosen, where the claim cannot be", node)
	}
}

func TestClaim_LooksAgainSoonWhenItsSourceCannotBeRead(t *testing.T) {
	s := newSteps(t)
	s.newClaim("restored", "now", fromSnapshot("snap"))
	s.custom.PrependReactor("get", "volumesnapshots", func(kubetesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewInternalError(errors.New("the datastore is away"))
	})
	if again, err := s.claim(t.Context(), "team", "restored"); err == nil {
		t.Errorf("the claim is looked at again in %s, want with the queue's growing pauses", again)
	}
}

func TestClaim_MakesNothingWhenItIsGone(t *testing.T) {
	s := newSteps(t)
	s.newClaim("early", "now", func(*corev1.PersistentVolumeClaim) {})
	s.must(s.kube.CoreV1().PersistentVolumeClaims("team").Delete(t.Context(), "early", metav1.DeleteOptions{}))
	if _, err := s.claim(t.Context(), "team", "early"); err == nil { // it has not heard of the end
		t.Error("nothing is said of a claim that is gone")
	}
	if left, err := s.p.ListVolumes(t.Context(), testApp); err != nil || len(left) > 0 {
		t.Errorf("a claim that is gone has the volumes %v (%v)", left, err)
	}
}

func TestClaim_ThatIsGivenAnotherVolumeLeavesNoneBehind(t *testing.T) {
	s := newSteps(t)
	pvc := s.newClaim("lucky", "now", func(pvc *corev1.PersistentVolumeClaim) {
		pvc.Finalizers, pvc.Spec.VolumeName = []string{provisioning}, "somebody-elses"
	})
	_, err := s.p.CreateVolume(t.Context(), testApp, gondola.CreateVolumeRequest{ID: s.refOf(pvc).ID, Name: "data", SizeGB: 1})
	s.must(err)
	s.must(s.step("lucky"))
	if left, err := s.p.ListVolumes(t.Context(), testApp); err != nil || len(left) > 0 {
		t.Errorf("the volumes %v (%v) are left", left, err)
	}
	if slices.Contains(s.got("lucky").Finalizers, provisioning) {
		t.Error("the claim cannot be deleted")
	}

	// One that has got as far as its PersistentVolume.
	pvc = s.newClaim("luckier", "now", func(pvc *corev1.PersistentVolumeClaim) { pvc.Spec.VolumeName = "somebody-elses" })
	ref := s.newVolume()
	pv := s.newRow(ref, pvc, corev1.VolumeReleased) // so Kubernetes calls it
	_, err = s.volume(t.Context(), pv.Name)
	s.must(err)
	if _, err := s.p.Volume(t.Context(), ref); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("the volume of %s is left (%v)", pv.Name, err)
	}
}

func TestExpand_GivesTheClaimASizeThatItsVolumeHasAlready(t *testing.T) {
	s := newSteps(t)
	ref := s.newVolume()
	pvc := s.newClaim("grown", "now", func(pvc *corev1.PersistentVolumeClaim) {
		pvc.Status.Phase, pvc.Status.Capacity = corev1.ClaimBound, corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
		pvc.Spec.VolumeName = volumeName(pvc)
	})
	s.newRow(ref, pvc, corev1.VolumeBound)
	_, err := s.p.ExtendVolume(t.Context(), ref, 3) // a larger wish, taken back when this was done
	s.must(err)
	for range 2 {
		s.must(s.step("grown"))
	}
	got := s.got("grown")
	if have := got.Status.Capacity.Storage().String(); have != "3Gi" || len(got.Status.Conditions) > 0 {
		t.Errorf("the claim has %s and the conditions %+v, want 3Gi and none", have, got.Status.Conditions)
	}
}

func TestContent_TellsThatItsSnapshotIsLostAndTakesNoOther(t *testing.T) {
	s := newSteps(t)
	volume := s.newVolume()
	s.put(contentResource, map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": "taken", "uid": "taken-uid"},
		"spec": map[string]any{"driver": Driver, "deletionPolicy": "Retain", "source": map[string]any{"volumeHandle": translate.VolumeHandle(volume)},
			"volumeSnapshotRef": map[string]any{"namespace": "team", "name": "taken"}}})
	_, err := s.content(t.Context(), "taken")
	s.must(err)
	if !s.ready("taken") {
		t.Fatal("the snapshot is not taken")
	}
	s.must(s.p.DeleteSnapshot(t.Context(), volume, "vs_"+idOf("taken-uid")))
	for range 2 {
		_, _ = s.content(t.Context(), "taken")
		if s.ready("taken") {
			t.Error("a snapshot that is not there any more is ready to use")
		}
	}
	if list, err := s.p.ListSnapshots(t.Context(), volume); err != nil || len(list) > 0 {
		t.Errorf("there is %v (%v): a snapshot of another moment in the place of the one that is lost", list, err)
	}
}

func TestSnapshot_MakesNothingWhenItIsGone(t *testing.T) {
	s := newSteps(t)
	pvc := s.newClaim("data", "now", func(pvc *corev1.PersistentVolumeClaim) {
		pvc.Status.Phase, pvc.Spec.VolumeName = corev1.ClaimBound, volumeName(pvc)
	})
	s.newRow(s.newVolume(), pvc, corev1.VolumeBound)
	s.put(snapshotResource, snapshotOf("data"))
	s.custom.PrependReactor("patch", "volumesnapshots", func(kubetesting.Action) (bool, runtime.Object, error) { // it is deleted meanwhile
		return true, nil, apierrors.NewNotFound(snapshotResource.GroupResource(), "snap")
	})
	_, err := s.snapshot(t.Context(), "team", "snap")
	list, listed := s.custom.Resource(contentResource).List(t.Context(), metav1.ListOptions{})
	s.must(listed)
	if err == nil || len(list.Items) > 0 {
		t.Errorf("a VolumeSnapshot that is gone has %d contents (%v)", len(list.Items), err)
	}
}

func snapshotOf(claim string) map[string]any {
	return map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshot", "metadata": map[string]any{"namespace": "team", "name": "snap", "uid": "snap-uid"},
		"spec": map[string]any{"volumeSnapshotClassName": "snaps", "source": map[string]any{"persistentVolumeClaimName": claim}}}
}

func TestReclaim_WaitsForWhatIsToBeMadeOfTheVolume(t *testing.T) {
	for what, ask := range map[string]func(s *steps){
		"a snapshot": func(s *steps) { s.put(snapshotResource, snapshotOf("data")) },
		"a copy": func(s *steps) {
			s.newClaim("copy", "now", func(pvc *corev1.PersistentVolumeClaim) {
				pvc.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "data"}
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newSteps(t)
			ref := s.newVolume()
			pvc := s.newClaim("data", "now", func(*corev1.PersistentVolumeClaim) {})
			pv := s.newRow(ref, pvc, corev1.VolumeReleased)
			ask(s)
			s.must(s.kube.CoreV1().PersistentVolumeClaims("team").Delete(t.Context(), "data", metav1.DeleteOptions{}))
			s.see()
			if again, err := s.volume(t.Context(), pv.Name); err != nil || again == 0 {
				t.Errorf("the PersistentVolume is looked at again in %s (%v), want soon", again, err)
			}
			if _, err := s.p.Volume(t.Context(), ref); err != nil {
				t.Fatalf("the volume is gone before %s of it was made: %v", what, err)
			}
			var err error
			if what == "a copy" {
				err = s.step("copy")
			} else {
				for range 2 {
					_, bound := s.snapshot(t.Context(), "team", "snap")
					_, taken := s.content(t.Context(), "snapcontent-snap-uid")
					_, told := s.snapshot(t.Context(), "team", "snap")
					err = errors.Join(bound, taken, told)
				}
			}
			s.must(err)
			if what == "a copy" { // Kubernetes binds it
				copied := s.got("copy")
				copied.Spec.VolumeName = volumeName(copied)
				_, err := s.kube.CoreV1().PersistentVolumeClaims("team").Update(t.Context(), copied, metav1.UpdateOptions{})
				s.must(err)
			}
			if again, err := s.volume(t.Context(), pv.Name); err != nil || again > 0 {
				t.Errorf("after that the PersistentVolume waits for %s (%v)", again, err)
			}
			if _, err := s.p.Volume(t.Context(), ref); !errors.Is(err, gondola.ErrNotFound) {
				t.Errorf("after that the volume is left (%v)", err)
			}
			made, err := s.p.ListVolumes(t.Context(), testApp)
			s.must(err)
			taken, err := s.p.ListSnapshots(t.Context(), gondola.VolumeRef{App: testApp})
			s.must(err)
			if got := fmt.Sprint(len(made), len(taken)); what == "a copy" && got != "1 0" || what == "a snapshot" && got != "0 1" {
				t.Errorf("%s was asked for; there are volumes and snapshots: %s", what, got)
			}
		})
	}
}

// TestReclaim_LetsGoOfWhatStandsForTheDataWhenTheAppIsDropped: it is what brings the end of the App back after a failure.
func TestReclaim_LetsGoOfWhatStandsForTheDataWhenTheAppIsDropped(t *testing.T) {
	s := newSteps(t)
	now := metav1.Now()
	pv := persistentVolume(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "data", UID: uuid.NewUUID()}},
		&storagev1.StorageClass{}, s.newVolume(), &gondola.Volume{SizeGB: 1, Region: "far"})
	pv.Status.Phase, pv.DeletionTimestamp = corev1.VolumeReleased, &now
	_, err := s.kube.CoreV1().PersistentVolumes().Create(t.Context(), pv, metav1.CreateOptions{})
	s.must(err)
	s.see()
	s.put(contentResource, map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": "old", "uid": "old-uid",
		"deletionTimestamp": now.UTC().Format(time.RFC3339), "finalizers": []any{contentProtection}},
		"spec": map[string]any{"driver": Driver, "deletionPolicy": "Delete", "source": map[string]any{"volumeHandle": pv.Spec.CSI.VolumeHandle},
			"volumeSnapshotRef": map[string]any{"namespace": "team", "name": "old"}}})
	held := func() (kinds []string) {
		if pv, err := s.kube.CoreV1().PersistentVolumes().Get(t.Context(), pv.Name, metav1.GetOptions{}); err == nil && slices.Contains(pv.Finalizers, reclaiming) {
			kinds = append(kinds, "PersistentVolume")
		}
		var o contentObject
		if err := s.read(t.Context(), contentResource, "", "old", &o); err == nil && slices.Contains(o.Finalizers, contentProtection) {
			kinds = append(kinds, "VolumeSnapshotContent")
		}
		return kinds
	}
	s.stuck = gondola.Errorf(gondola.ErrUnavailable, "worker near is not connected")
	_, first := s.volume(t.Context(), pv.Name)
	_, second := s.content(t.Context(), "old")
	if got := held(); first == nil || second == nil || len(got) != 2 {
		t.Errorf("while the App cannot be dropped (%v, %v), %v are held, want both", first, second, got)
	}
	s.stuck = nil
	_, first = s.volume(t.Context(), pv.Name)
	_, second = s.content(t.Context(), "old")
	if got := held(); first != nil || second != nil || len(got) > 0 {
		t.Errorf("when the App is dropped (%v, %v), %v are still held", first, second, got)
	}
	if !slices.Equal(s.dropped, []string{"team", "team", "team", "team"}) {
		t.Errorf("the Apps of the namespaces %v were to be dropped", s.dropped)
	}
}
