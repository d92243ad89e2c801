package provider

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"gondola"
)

// pressed returns the offers of workers whose hosts are short of something.
func (o *offers) pressed() map[gondola.WorkerName]gondola.Offer {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[gondola.WorkerName]gondola.Offer{}
	for name, offer := range o.byWorker {
		if offer.Host != nil && offer.Host.Pressure != (gondola.Pressure{}) {
			out[name] = offer
		}
	}
	return out
}

// hosts returns what the workers of a region tell of their hosts, by worker.
func (o *offers) hosts(r gondola.Region) map[gondola.WorkerName]gondola.HostInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[gondola.WorkerName]gondola.HostInfo{}
	for name, offer := range o.byWorker {
		if offer.Region == r && offer.Host != nil {
			out[name] = *offer.Host
		}
	}
	return out
}

// imagesKey changes when the images of some worker do.
func (o *offers) imagesKey() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(o.byWorker)) {
		fmt.Fprintf(&b, "%s %q\n", name, o.byWorker[name].Images)
	}
	return b.String()
}

// pressureConditions are the conditions of a node whose workers have these hosts. A node is under pressure when all of its workers are: as
// long as one is not, the region takes Pods.
func pressureConditions(hosts map[gondola.WorkerName]gondola.HostInfo) []corev1.NodeCondition {
	var out []corev1.NodeCondition
	for _, c := range []struct {
		kind                corev1.NodeConditionType
		has                 func(gondola.Pressure) bool
		enough, short, what string
	}{
		{corev1.NodeMemoryPressure, func(p gondola.Pressure) bool { return p.Memory }, "WorkersHaveSufficientMemory", "WorkersHaveInsufficientMemory", "memory"},
		{corev1.NodeDiskPressure, func(p gondola.Pressure) bool { return p.Disk }, "WorkersHaveNoDiskPressure", "WorkersHaveDiskPressure", "disk space"},
		{corev1.NodePIDPressure, func(p gondola.Pressure) bool { return p.PIDs }, "WorkersHaveSufficientPID", "WorkersHaveInsufficientPID", "process ids"},
	} {
		var pressed []string
		for _, name := range slices.Sorted(maps.Keys(hosts)) {
			if c.has(hosts[name].Pressure) {
				pressed = append(pressed, string(name))
			}
		}
		cond := corev1.NodeCondition{Type: c.kind, Status: corev1.ConditionFalse, Reason: c.enough, Message: "workers have enough " + c.what}
		if len(pressed) > 0 {
			cond.Message = "short of " + c.what + ": worker " + strings.Join(pressed, ", ")
		}
		if len(pressed) > 0 && len(pressed) == len(hosts) {
			cond.Status, cond.Reason = corev1.ConditionTrue, c.short
		}
		out = append(out, cond)
	}
	return out
}

const (
	endlessDisk     = 100 << 30
	endlessMachines = 1000
)

// host is what a node tells of the hosts below it: their own words where they agree, sums where they add up.
func (n *node) host() gondola.HostInfo {
	one := gondola.HostInfo{Kernel: kernel(), OSImage: "Gondola", Runtime: "gondola://unknown", BootID: n.Name, MachineID: n.Name}
	hosts := n.engine.offers.hosts(n.Region)
	same := func(field func(gondola.HostInfo) string) string {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(hosts)) {
			if w := field(hosts[name]); w != "" && !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
		return strings.Join(words, ", ")
	}
	one.Kernel = cmp.Or(same(func(h gondola.HostInfo) string { return h.Kernel }), one.Kernel)
	one.OSImage = cmp.Or(same(func(h gondola.HostInfo) string { return h.OSImage }), one.OSImage)
	one.Runtime = cmp.Or(same(func(h gondola.HostInfo) string { return h.Runtime }), one.Runtime)
	for _, h := range hosts {
		one.DiskBytes += h.DiskBytes
		one.MaxMachines += h.MaxMachines
		if len(hosts) == 1 {
			one.BootID, one.MachineID = cmp.Or(h.BootID, n.Name), cmp.Or(h.MachineID, n.Name)
		}
	}
	if len(hosts) == 0 { // nobody tells: a platform whose room only its market knows
		one.DiskBytes, one.MaxMachines = endlessDisk, endlessMachines
	}
	share := n.engine.share(n.Region)
	one.DiskBytes, one.MaxMachines = one.DiskBytes/share, one.MaxMachines/int(share)
	return one
}

// maxImages is how many images a Node lists, the largest, as a kubelet does.
const maxImages = 50

// learnImages asks which images there are, if they have changed since it was last asked.
func (e *engine) learnImages(ctx context.Context) {
	key := e.offers.imagesKey()
	e.mu.Lock()
	known := e.imagesKey == key
	e.mu.Unlock()
	if known {
		return
	}
	list, err := e.cfg.Platform.ListImages(ctx)
	if err != nil {
		e.log.Debug("images cannot be listed for the nodes", "err", err)
		return
	}
	slices.SortFunc(list, func(a, b gondola.ImageInfo) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), strings.Compare(a.Reference, b.Reference))
	})
	byDigest := map[string]int{}
	var images []corev1.ContainerImage
	for _, i := range list {
		at, ok := byDigest[i.Digest]
		if !ok {
			at = len(images)
			byDigest[i.Digest] = at
			images = append(images, corev1.ContainerImage{SizeBytes: i.SizeBytes})
		}
		if !slices.Contains(images[at].Names, i.Reference) {
			images[at].Names = append(images[at].Names, i.Reference)
		}
	}
	e.mu.Lock()
	e.imagesKey, e.images = key, images[:min(len(images), maxImages)]
	e.mu.Unlock()
}

func (e *engine) nodeImages() []corev1.ContainerImage {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.images
}
