package image_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gondola/internal/image"
)

func TestPrune_TakesNothingFromAPullThatEnds(t *testing.T) {
	h := newHub(t)
	s := open(t, image.Config{})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Prune(t.Context(), nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 10 {
		ref := h.push(t, fmt.Sprintf("app:%d", i), imageOf(t, layer(t, reg("a", fmt.Sprint(i)))))
		img, err := s.Ensure(t.Context(), ref, image.IfNotPresent, nil)
		if err != nil {
			t.Errorf("Ensure of image %d = %v", i, err)
		} else if _, err := os.Stat(filepath.Join(img.Tree, "a")); err != nil {
			t.Errorf("image %d was pruned while it was given out: %v", i, err)
		}
	}
	stop()
	wg.Wait()
}

func TestPrune_KeepsWhatIsUsedAndGivesBackTheRest(t *testing.T) {
	h := newHub(t)
	shared := layer(t, reg("shared", strings.Repeat("s", 5000)))
	a := h.push(t, "a:1", imageOf(t, shared, layer(t, reg("a", "1"))))
	b := h.push(t, "b:1", imageOf(t, shared, layer(t, reg("b", strings.Repeat("b", 9000)))))
	dir := t.TempDir()
	s := open(t, image.Config{Dir: dir})
	imgA, imgB := ensure(t, s, a, image.IfNotPresent), ensure(t, s, b, image.IfNotPresent)
	if freed, err := s.Prune(t.Context(), nil); err != nil || freed != 0 {
		t.Errorf("Prune right after Ensure freed %d (%v): a Machine on its way would lose its image", freed, err)
	}
	if err := s.AddHello(t.Context(), []byte("#!/bin/true\n")); err != nil {
		t.Fatal(err)
	}
	s = open(t, image.Config{Dir: dir}) // a later process, which gave out nothing
	freed, err := s.Prune(t.Context(), map[string]bool{imgA.Digest: true})
	if err != nil || freed < 9000 {
		t.Errorf("Prune freed %d (%v), want b's tree and layer", freed, err)
	}
	if !s.Cached(a) || s.Cached(b) || !s.Cached("gondola.local/hello") {
		t.Errorf("cached: a %v, b %v, hello %v", s.Cached(a), s.Cached(b), s.Cached("gondola.local/hello"))
	}
	if got := content(t, imgA, "shared"); len(got) != 5000 {
		t.Errorf("shared has %d bytes", len(got))
	}
	if _, err := os.Stat(imgB.Tree); !os.IsNotExist(err) {
		t.Errorf("tree of b: %v", err)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Reference != a || list[1].Reference != "gondola.local/hello:latest" {
		t.Errorf("List = %+v, %v", list, err)
	}
	if got := content(t, ensure(t, s, b, image.IfNotPresent), "shared"); len(got) != 5000 {
		t.Errorf("b again: shared has %d bytes", len(got))
	}
}
