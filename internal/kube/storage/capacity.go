package storage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gondola"
)

// refusal is that a region had no room for a Volume.
type refusal struct {
	sizeGB int
	until  time.Time // from then on it may be asked again
}

// patience is how long a region that refused a Volume is not offered Volumes of that size.
const patience = 20 * time.Second

// noRoom notes that none of these regions takes a Volume of this size now.
func (c *Controller) noRoom(regions []gondola.Region, sizeGB int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range regions {
		if was, ok := c.refused[r]; ok && time.Now().Before(was.until) {
			sizeGB = min(sizeGB, was.sizeGB)
		}
		c.refused[r] = refusal{sizeGB: sizeGB, until: time.Now().Add(patience)}
	}
}

// largest returns how many GiB a new Volume of a region can have at most.
func (c *Controller) largest(r gondola.Region) int64 {
	most := int64(gondola.MaxVolumeGB)
	if c.cfg.Room != nil {
		if bytes, known := c.cfg.Room(r); known {
			most = min(most, max(bytes>>30, 0))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if was, ok := c.refused[r]; ok && time.Now().Before(was.until) {
		most = min(most, int64(was.sizeGB)-1)
	}
	return most
}

// capacity tells the scheduler how large a Volume of each class can be in each region, so that it chooses one that has room.
func (c *Controller) capacity(ctx context.Context) error {
	classes, err := c.classes.List(everything)
	if err != nil {
		return err
	}
	want := map[string]*storagev1.CSIStorageCapacity{}
	for _, class := range classes {
		if class.Provisioner != Driver {
			continue
		}
		for _, r := range c.allRegions() {
			most := resource.NewQuantity(c.largest(r)<<30, resource.BinarySI)
			o := &storagev1.CSIStorageCapacity{
				ObjectMeta:       metav1.ObjectMeta{Name: class.Name + "." + string(r), Namespace: metav1.NamespaceSystem, Labels: managed},
				StorageClassName: class.Name, MaximumVolumeSize: most, Capacity: most,
				NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyRegion: string(r)}},
			}
			want[o.Name] = o
		}
	}
	api := c.client.StorageV1().CSIStorageCapacities(metav1.NamespaceSystem)
	have, err := api.List(ctx, metav1.ListOptions{LabelSelector: managedSelector, ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("capacities: %w", err)
	}
	for i := range have.Items {
		old := &have.Items[i]
		fresh, ok := want[old.Name]
		delete(want, old.Name)
		switch {
		case !ok:
			err = api.Delete(ctx, old.Name, metav1.DeleteOptions{})
		case !equality.Semantic.DeepEqual(old.MaximumVolumeSize, fresh.MaximumVolumeSize):
			old.MaximumVolumeSize, old.Capacity = fresh.MaximumVolumeSize, fresh.Capacity
			_, err = api.Update(ctx, old, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("capacity %s: %w", old.Name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, err := api.Create(ctx, want[name], metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("capacity %s: %w", name, err)
		}
	}
	return nil
}

// node says that our driver is on a node, as a kubelet does; the object goes with its Node.
func (c *Controller) node(ctx context.Context, name string) error {
	if _, ok := c.cfg.Regions[name]; !ok {
		return nil
	}
	n, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	want := []storagev1.CSINodeDriver{{Name: Driver, NodeID: name, TopologyKeys: []string{corev1.LabelTopologyRegion}}}
	api := c.client.StorageV1().CSINodes()
	have, err := api.Get(ctx, name, metav1.GetOptions{})
	if err == nil && equality.Semantic.DeepEqual(have.Spec.Drivers, want) {
		return nil
	}
	if err == nil {
		have.Spec.Drivers = want
		_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	} else if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: name, UID: n.UID}}}, Spec: storagev1.CSINodeSpec{Drivers: want}}, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("CSINode %s: %w", name, err)
	}
	return nil
}
