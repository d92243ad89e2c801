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
	pins        *pins
	backoff     gondola.Backoff
	retry       bool // go on until ctx ends
	try         int  // which try of the caller's this is; if zero, the first
	credentials []gondola.RegistryCredential
	tell        func(containers []string, waiting *gondola.ContainerState, notes ...gondola.Note)
}

// images are those of a Machine, by the names of what they are for.
type images struct{ containers, volumes map[string]Image }

// digests lists each image once.
func (i *images) digests() []string {
	seen := map[string]bool{}
	for _, of := range []map[string]Image{i.containers, i.volumes} {
		for _, img := range of {
			seen[img.Digest] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// pull is one image for some containers and volumes.
type pull struct {
	image, policy string
	containers    []string // that are told how it goes: also those that mount its volumes
	runs, volumes []string // what it is for
}

// pullsOf lists the distinct images of a Config.
func pullsOf(c *gondola.Config) []*pull {
	var all []*pull
	byKey := map[[2]string]*pull{}
	pullOf := func(image, policy string) *pull {
		key := [2]string{image, policy}
		if byKey[key] == nil {
			byKey[key] = &pull{image: image, policy: policy}
			all = append(all, byKey[key])
		}
		return byKey[key]
	}
	for _, k := range c.Lasting() {
		policy := "if_not_present"
		if k.Gondola != nil && k.Gondola.PullPolicy != "" {
			policy = k.Gondola.PullPolicy
		}
		p := pullOf(k.Image, policy)
		p.containers, p.runs = append(p.containers, k.Name), append(p.runs, k.Name)
	}
	for _, v := range c.Volumes {
		if v.Image == "" {
			continue
		}
		p := pullOf(v.Image, v.PullPolicy())
		p.volumes = append(p.volumes, v.Name)
		for _, k := range c.Lasting() {
			mounts := slices.ContainsFunc(k.Mounts, func(m gondola.ContainerMount) bool { return m.Name == v.Name })
			if mounts && !slices.Contains(p.containers, k.Name) {
				p.containers = append(p.containers, k.Name)
			}
		}
	}
	return all
}

// all brings every image, in parallel. Each is pinned for the Machine before it is returned.
func (p *puller) all(ctx context.Context, id gondola.MachineID, c *gondola.Config) (*images, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var first error
	out := &images{containers: map[string]Image{}, volumes: map[string]Image{}}
	var wg sync.WaitGroup
	for _, one := range pullsOf(c) {
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
			for _, name := range one.runs {
				out.containers[name] = img
			}
			for _, name := range one.volumes {
				out.volumes[name] = img
			}
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
			return p.host.EnsureImage(ctx, one.image, one.policy, p.credentials)
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

// pins keeps images from being pruned between their pull and the record that names them.
type pins struct {
	mu      sync.Mutex
	pulling int
	idle    chan struct{} // closed and replaced when no pull is under way
	pinned  map[gondola.MachineID]map[string]bool
	pruning bool
}

func newPins() *pins {
	return &pins{idle: make(chan struct{}), pinned: map[gondola.MachineID]map[string]bool{}}
}

// ensure runs a pull and pins what it brings, not while images are pruned.
func (p *pins) ensure(ctx context.Context, id gondola.MachineID, f func() (Image, error)) (Image, error) {
	for {
		p.mu.Lock()
		if !p.pruning {
			break
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
		if p.pinned[id] == nil {
			p.pinned[id] = map[string]bool{}
		}
		p.pinned[id][img.Digest] = true
	}
	p.wakeLocked()
	return img, err
}

func (p *pins) wakeLocked() {
	close(p.idle)
	p.idle = make(chan struct{})
}

// release drops the pins of a Machine: its record names its images now, or it needs none.
func (p *pins) release(id gondola.MachineID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pinned, id)
}

// errPulling says that images cannot be pruned while some are being pulled.
var errPulling = errors.New("images are being pulled")

// prune runs f with the digests that are pinned, while nothing is pulled.
func (p *pins) prune(f func(pinned map[string]bool) (int64, error)) (int64, error) {
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
		p.wakeLocked()
	}()
	return f(pinned)
}
