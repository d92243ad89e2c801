package translate_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestFields_EveryOneHasALineInTheTable keeps docs/pods.md whole: a field that a new release of the API brings has to be decided upon.
func TestFields_EveryOneHasALineInTheTable(t *testing.T) {
	page, err := os.ReadFile("../../../docs/pods.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| (.+) \|$`).FindAllStringSubmatch(string(page), -1) {
		for _, name := range strings.Split(row[1], ",") {
			listed[strings.TrimSpace(name)] = true
		}
		if !regexp.MustCompile(`[a-z]`).MatchString(row[2]) {
			t.Errorf("docs/pods.md says nothing about %s", row[1])
		}
		for _, name := range regexp.MustCompile(`\w+`).FindAllString(row[2], -1) { // parts that the row of their whole speaks of
			listed[name] = true
		}
	}
	elsewhere := map[string]bool{"name": true} // what a thing is called
	for _, typ := range []reflect.Type{reflect.TypeFor[corev1.PodSpec](), reflect.TypeFor[corev1.PodSecurityContext](), reflect.TypeFor[corev1.SecurityContext](),
		reflect.TypeFor[corev1.Container](), reflect.TypeFor[corev1.EphemeralContainer](), reflect.TypeFor[corev1.Lifecycle](),
		reflect.TypeFor[corev1.VolumeSource](), reflect.TypeFor[corev1.VolumeProjection](), reflect.TypeFor[corev1.LifecycleHandler](),
		reflect.TypeFor[corev1.ProbeHandler]()} {
		for _, field := range fields(typ) {
			if !listed[field] && !elsewhere[field] {
				t.Errorf("docs/pods.md has no line for %s of %s", field, typ.Name())
			}
		}
	}
}

// fields are the names of a type's fields in JSON, those of embedded types included.
func fields(typ reflect.Type) (names []string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			names = append(names, fields(f.Type)...)
			continue
		}
		names = append(names, name)
	}
	return names
}
