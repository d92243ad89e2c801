package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"gondola"
)

// puller brings the images of a Machine and tells about it in a kubelet's words.
type puller struct {
	host        Host
	pins        *Pins
	backoff     gondola.Backoff
	retry       bool                                                        // go on until ctx ends
	try         int                                                         // which try of the caller's this is; if zero, the first
	credentials func(context.Context) ([]gondola.RegistryCredential, error) // asked at every try: they may have been put right since the last
	tell        func(containers []string, waiting *gondola.ContainerState, notes ...gondola.Note)
}

// imageKey is an image and when its registry is asked for it.
type imageKey struct{ image, policy string }

// keyOf is an image that a container wants: its own, or one whose config is a file of it.
func keyOf(k gondola.Container, image string) imageKey {
	if k.Gondola != nil && k.Gondola.PullPolicy != "" {
		return imageKey{image, k.Gondola.PullPolicy}
	}
	return imageKey{image, "if_not_present"}
}

// images are those of a Machine.
type images map[imageKey]Image

// digests lists each image once.
func (i images) digests() []string {
	seen := map[string]bool{}
	for _, img := range i {
		seen[img.Digest] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// pull is one image.
type pull struct {
	imageKey
	containers []string // that are told how it goes: those that run it, have a file of it or mount it
}

// pullsOf lists the distinct images of containers and volumes.
func pullsOf(containers []gondola.Container, volumes []gondola.TempVolume) []*pull {
	var all []*pull
	byKey := map[imageKey]*pull{}
	want := func(key imageKey, containers ...string) {
		if byKey[key] == nil {
			byKey[key] = &pull{imageKey: key}
			all = append(all, byKey[key])
		}
		for _, name := range containers {
			if p := byKey[key]; !slices.Contains(p.containers, name) {
				p.containers = append(p.containers, name)
			}
		}
	}
	for _, k := range containers {
		want(keyOf(k, k.Image), k.Name)
		for _, f := range k.Files {
			if f.ImageConfig != "" {
				want(keyOf(k, f.ImageConfig), k.Name)
			}
		}
	}
	for _, v := range volumes {
		if v.Image == "" {
			continue
		}
		var mounting []string
		for _, k := range containers {
			if slices.ContainsFunc(k.Mounts, func(m gondola.ContainerMount) bool { return m.Name == v.Name }) {
				mounting = append(mounting, k.Name)
			}
		}
		want(imageKey{v.Image, v.PullPolicy()}, mounting...)
	}
	return all
}

// all brings every image of containers and volumes, in parallel. Each is pinned for the Machine before it is returned.
func (p *puller) all(ctx context.Context, id gondola.MachineID, containers []gondola.Container, volumes []gondola.TempVolume) (images, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var first error
	out := images{}
	var wg sync.WaitGroup
	for _, one := range pullsOf(containers, volumes) {
		wg.Go(func() {
			img, err := p.one(ctx, id, one)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if first == nil {
					first = err
				}
				cancel()
				return
			}
			out[one.imageKey] = img
		})
	}
	wg.Wait()
	return out, first
}

// one brings one image, with retry again and again.
func (p *puller) one(ctx context.Context, id gondola.MachineID, one *pull) (Image, error) {
	for attempt := 1; ; attempt++ {
		cached := one.policy != "always" && p.host.CachedImage(one.image)
		if !cached && one.policy != "never" {
			p.tell(one.containers, nil, gondola.Note{Reason: "Pulling", Message: fmt.Sprintf("Pulling image %q", one.image)})
		}
		began := time.Now()
		img, err := p.pins.ensure(ctx, id, func() (Image, error) {
			credentials, err := p.credentials(ctx)
			if err != nil {
				return Image{}, err
			}
			return p.host.EnsureImage(ctx, one.image, one.policy, credentials)
		})
		switch took := time.Since(began).Round(time.Millisecond); {
		case err == nil && cached:
			p.tell(one.containers, nil, gondola.Note{Reason: "Pulled", Message: fmt.Sprintf("Container image %q already present on machine", one.image)})
			return img, nil
		case err == nil:
			p.tell(one.containers, nil, gondola.Note{Reason: "Pulled",
				Message: fmt.Sprintf("Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.", one.image, took, took, img.SizeBytes)})
			return img, nil
		case ctx.Err() != nil:
			return Image{}, ctx.Err()
		}
		soon, later := failedPull(one, err)
		if p.try > 1 {
			soon = later
		}
		p.tell(one.containers, &soon.waiting, soon.notes...)
		if !p.retry {
			return Image{}, err
		}
		wait := p.backoff.Wait(attempt)
		first := min(wait/2, 2*time.Second) // ErrImagePull is seen for a moment, then ImagePullBackOff
		if !pause(ctx, first) {
			return Image{}, ctx.Err()
		}
		p.tell(one.containers, &later.waiting, later.notes...)
		if !pause(ctx, wait-first) {
			return Image{}, ctx.Err()
		}
	}
}

// told is what is said of a failed pull.
type told struct {
	waiting gondola.ContainerState
	notes   []gondola.Note
}

// failedPull returns a kubelet's words for a failed pull (pkg/kubelet/images): at once, and while it waits.
func failedPull(one *pull, err error) (soon, later told) {
	say := func(reason, message string, notes ...gondola.Note) told {
		return told{gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: reason, Message: message}, notes}
	}
	failed := func(reason string) gondola.Note {
		return gondola.Note{Warning: true, Reason: "Failed", Message: "Error: " + reason}
	}
	if _, ok := parseImage(one.image); !ok {
		text := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: invalid reference format", one.image, one.image)
		t := say("InvalidImageName", text, gondola.Note{Warning: true, Reason: "InspectFailed", Message: text}, failed("InvalidImageName"))
		return t, t
	}
	if one.policy == "never" {
		text := fmt.Sprintf("Container image %q is not present with pull policy of Never", one.image)
		t := say("ErrImageNeverPull", text, gondola.Note{Warning: true, Reason: "ErrImageNeverPull", Message: text}, failed("ErrImageNeverPull"))
		return t, t
	}
	soon = say("ErrImagePull", err.Error(),
		gondola.Note{Warning: true, Reason: "Failed", Message: fmt.Sprintf("Failed to pull image %q: %v", one.image, err)}, failed("ErrImagePull"))
	back := fmt.Sprintf("Back-off pulling image %q", one.image)
	later = say("ImagePullBackOff", fmt.Sprintf("%s: ErrImagePull: %v", back, err), gondola.Note{Reason: "BackOff", Message: back}, failed("ImagePullBackOff"))
	return soon, later
}

// Pins keep images from being pruned, by whichever worker of a host, between their pull and the spec that names them. Ready to use as it is; a
// Host has one.
type Pins struct {
	mu      sync.Mutex
	pulling int
	idle    chan struct{} // of those who wait for an end of pruning; closed then
	pinned  map[gondola.MachineID]map[string]bool
	pruning bool
}

// ensure runs a pull and pins what it brings, not while images are pruned.
func (p *Pins) ensure(ctx context.Context, id gondola.MachineID, f func() (Image, error)) (Image, error) {
	for {
		p.mu.Lock()
		if !p.pruning {
			break
		}
		if p.idle == nil {
			p.idle = make(chan struct{})
		}
		idle := p.idle
		p.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return Image{}, ctx.Err()
		}
	}
	p.pulling++
	p.mu.Unlock()
	img, err := f()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pulling--; err == nil {
		if p.pinned == nil {
			p.pinned = map[gondola.MachineID]map[string]bool{}
		}
		if p.pinned[id] == nil {
			p.pinned[id] = map[string]bool{}
		}
		p.pinned[id][img.Digest] = true
	}
	return img, err
}

// release drops the pins of a Machine: its record and its spec name its images now, or it needs none.
func (p *Pins) release(id gondola.MachineID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pinned, id)
}

// errPulling says that images cannot be pruned while some are being pulled.
var errPulling = errors.New("images are being pulled")

// prune runs f with the digests that are pinned, while nothing is pulled.
func (p *Pins) prune(f func(pinned map[string]bool) (int64, error)) (int64, error) {
	p.mu.Lock()
	if p.pulling > 0 || p.pruning {
		p.mu.Unlock()
		return 0, errPulling
	}
	p.pruning = true
	pinned := map[string]bool{}
	for _, ds := range p.pinned {
		for d := range ds {
			pinned[d] = true
		}
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.pruning = false
		if p.idle != nil {
			close(p.idle)
			p.idle = nil
		}
	}()
	return f(pinned)
}
