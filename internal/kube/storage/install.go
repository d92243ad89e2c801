package storage

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/yaml"
)

// Names of the classes that every cluster has.
const (
	ClassDelete = "gondola" // the default
	ClassRetain = "gondola-retain"
)

var (
	managed         = map[string]string{"app.kubernetes.io/managed-by": "gondola"}
	managedSelector = "app.kubernetes.io/managed-by=gondola"
)

//go:embed crds/*.yaml
var crds embed.FS

// Rules are what the user of a Controller may do.
func Rules() []rbacv1.PolicyRule {
	rule := func(group string, verbs []string, resources ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Verbs: verbs, Resources: resources}
	}
	read, all := []string{"get", "list", "watch"}, []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	return []rbacv1.PolicyRule{
		rule("", read, "nodes", "namespaces"),
		rule("", all, "persistentvolumes"),
		rule("", []string{"get", "list", "watch", "update", "patch"}, "persistentvolumeclaims", "persistentvolumeclaims/status"),
		rule("", []string{"create", "update", "patch"}, "events"),
		rule("storage.k8s.io", read, "storageclasses"),
		rule("storage.k8s.io", all, "csistoragecapacities", "csinodes"),
		rule(snapshotResource.Group, read, "volumesnapshotclasses"),
		rule(snapshotResource.Group, all, "volumesnapshots", "volumesnapshots/status", "volumesnapshotcontents", "volumesnapshotcontents/status"),
	}
}

// Install makes the objects that claims need, as an administrator: StorageClasses, the CSIDriver and the snapshot API. What a user may change,
// such as which class is the default, is made once and then left alone.
func Install(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	custom, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for _, class := range classes() {
		if _, err := client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("storage class %s: %w", class.Name, err)
		}
	}
	if err := ensureDriver(ctx, client); err != nil {
		return fmt.Errorf("CSI driver %s: %w", Driver, err)
	}
	if err := ensureCRDs(ctx, custom); err != nil {
		return err
	}
	return ensureSnapshotClasses(ctx, custom)
}

func classes() []*storagev1.StorageClass {
	wait, yes := storagev1.VolumeBindingWaitForFirstConsumer, true
	remove, retain := corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain
	class := func(name string, policy *corev1.PersistentVolumeReclaimPolicy) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: managed}, Provisioner: Driver,
			ReclaimPolicy: policy, VolumeBindingMode: &wait, AllowVolumeExpansion: &yes}
	}
	first := class(ClassDelete, &remove)
	first.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	return []*storagev1.StorageClass{first, class(ClassRetain, &retain)}
}

// ensureDriver says that volumes of ours need not be attached by Kubernetes and that the scheduler shall ask how much room there is.
func ensureDriver(ctx context.Context, client kubernetes.Interface) error {
	no, yes, policy := false, true, storagev1.FileFSGroupPolicy
	want := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: Driver, Labels: managed}, Spec: storagev1.CSIDriverSpec{
		AttachRequired: &no, PodInfoOnMount: &no, StorageCapacity: &yes, FSGroupPolicy: &policy,
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}}}
	_, err := client.StorageV1().CSIDrivers().Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// ensureCRDs brings the snapshot API in, and up to date where it is from us: a user may have brought a newer one.
func ensureCRDs(ctx context.Context, custom dynamic.Interface) error {
	names, err := fs.Glob(crds, "crds/*.yaml")
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := crds.ReadFile(name)
		if err != nil {
			return err
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(b, &o.Object); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		delete(o.Object, "status")
		o.SetLabels(managed)
		api := custom.Resource(crdResource)
		have, err := api.Get(ctx, o.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			if _, err = api.Create(ctx, o, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
				err = nil
			}
		case err == nil && have.GetLabels()["app.kubernetes.io/managed-by"] == "gondola":
			o.SetResourceVersion(have.GetResourceVersion())
			_, err = api.Update(ctx, o, metav1.UpdateOptions{})
		}
		if err != nil {
			return fmt.Errorf("custom resource %s: %w", o.GetName(), err)
		}
	}
	return nil
}

// ensureSnapshotClasses makes the counterparts of the StorageClasses. The API serves them a moment after their CRD was made; who calls this
// again until it succeeds waits for that.
func ensureSnapshotClasses(ctx context.Context, custom dynamic.Interface) error {
	for name, policy := range map[string]string{ClassDelete: deletionPolicyDrops, ClassRetain: "Retain"} {
		meta := map[string]any{"name": name, "labels": map[string]any{"app.kubernetes.io/managed-by": "gondola"}}
		if name == ClassDelete {
			meta["annotations"] = map[string]any{defaultSnapshot: "true"}
		}
		o := map[string]any{"apiVersion": apiVersion, "kind": "VolumeSnapshotClass", "metadata": meta, "driver": Driver, "deletionPolicy": policy}
		_, err := custom.Resource(classResource).Create(ctx, &unstructured.Unstructured{Object: o}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("snapshot class %s: %w", name, err)
		}
	}
	return nil
}

// served waits until the API server serves the snapshot API; false if ctx ended first.
func (c *Controller) served(ctx context.Context) bool {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		if _, err := c.dynamic.Resource(contentResource).List(ctx, metav1.ListOptions{Limit: 1}); err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// claimsOf lists the claims of a class that have no volume.
func (c *Controller) claimsOf(class string) []item {
	list, _ := c.claims.List(everything)
	var out []item
	for _, pvc := range list {
		if pvc.Spec.VolumeName == "" && storagehelpers.GetPersistentVolumeClaimClass(pvc) == class {
			out = append(out, item{kindClaim, pvc.Namespace, pvc.Name})
		}
	}
	return out
}
