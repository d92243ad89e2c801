package host

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gondola/internal/pilot"
)

// TestLaunchedImages_AreThoseOfContainersAndOfVolumes: another worker of this host must not remove what is mounted as a volume.
func TestLaunchedImages_AreThoseOfContainersAndOfVolumes(t *testing.T) {
	p, err := newPlaces(t.TempDir(), "test0001", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	hex := func(c string) string { return strings.Repeat(c, 64) }
	tree := func(c string) string { return filepath.Join(p.data, "images", "trees", hex(c), "rootfs") }
	for id, spec := range map[string]pilot.Spec{
		"aaaaaaaaaaaaa1": {Containers: []pilot.Container{{Name: "main", Tree: tree("1")}}},
		"aaaaaaaaaaaaa2": {Containers: []pilot.Container{{Name: "main", Tree: tree("2")}}, Volumes: []pilot.Volume{
			{Name: "files", Kind: pilot.VolumeImage, Source: tree("3")},
			{Name: "data", Kind: pilot.VolumeHost, Source: "/somewhere/else"},
			{Name: "empty", Kind: pilot.VolumeDisk},
		}},
	} {
		spec.Dir = filepath.Join(p.machines, id)
		if err := pilot.WriteSpec(spec); err != nil {
			t.Fatal(err)
		}
	}
	got, err := p.launchedImages()
	want := []string{"sha256:" + hex("1"), "sha256:" + hex("2"), "sha256:" + hex("3")}
	if ids := slices.Sorted(maps.Keys(got)); err != nil || !slices.Equal(ids, want) {
		t.Errorf("launchedImages = %v, %v; want %v", ids, err, want)
	}
}
