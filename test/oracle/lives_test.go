package oracle_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestLives lives each life of the table.
func TestLives(t *testing.T) {
	h := theHouse(t)
	for _, l := range lives() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			h.live(t, l)
		})
	}
}

// pod is a spec with the containers of these names, in their order.
func pod(policy corev1.RestartPolicy, names ...string) corev1.PodSpec {
	s := corev1.PodSpec{RestartPolicy: policy, TerminationGracePeriodSeconds: new(int64(3))}
	for _, n := range names {
		s.Containers = append(s.Containers, corev1.Container{Name: n})
	}
	return s
}

// with changes a spec.
func with(s corev1.PodSpec, changes ...func(*corev1.PodSpec)) corev1.PodSpec {
	for _, f := range changes {
		f(&s)
	}
	return s
}

// inits puts init containers of these names before the others; a name that begins with "side" is a sidecar.
func inits(names ...string) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		for _, n := range names {
			c := corev1.Container{Name: n}
			if strings.HasPrefix(n, "side") {
				c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			}
			s.InitContainers = append(s.InitContainers, c)
		}
	}
}

const (
	always    = corev1.RestartPolicyAlways
	onFailure = corev1.RestartPolicyOnFailure
	never     = corev1.RestartPolicyNever
)

func grace(seconds int64) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) { s.TerminationGracePeriodSeconds = &seconds }
}

// container changes one container of a spec.
func container(name string, f func(*corev1.Container)) func(*corev1.PodSpec) {
	return func(s *corev1.PodSpec) {
		for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
			for i := range list {
				if list[i].Name == name {
					f(&list[i])
				}
			}
		}
	}
}

// probes gives a container a probe of each kind, which is asked every second and has to fail twice.
func probes(name string, kinds ...string) func(*corev1.PodSpec) {
	return container(name, func(c *corev1.Container) {
		k := corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 30} // a busy machine fails no probe
		if slices.Contains(kinds, startup) {
			c.StartupProbe = k.DeepCopy()
		}
		if slices.Contains(kinds, readiness) {
			c.ReadinessProbe = k.DeepCopy()
		}
		if slices.Contains(kinds, liveness) {
			c.LivenessProbe = k.DeepCopy()
		}
	})
}

// resources gives a container requests and limits; an empty text is none.
func resources(name, cpu, memory, cpuLimit, memoryLimit string) func(*corev1.PodSpec) {
	return container(name, func(c *corev1.Container) { c.Resources = amounts(cpu, memory, cpuLimit, memoryLimit) })
}

func amounts(cpu, memory, cpuLimit, memoryLimit string) corev1.ResourceRequirements {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for name, text := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if text != "" {
				l[name] = resource.MustParse(text)
			}
		}
		if len(l) == 0 {
			return nil
		}
		return l
	}
	return corev1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpuLimit, memoryLimit)}
}

// at is a script: how a container takes SIGTERM.
func at(container string, how parting) func(*stage, string) {
	return func(s *stage, life string) { s.order(life, container, func(a *actor) { a.term = how }) }
}

// fails is a script: a probe fails from the beginning.
func fails(container, kind string) func(*stage, string) {
	return func(s *stage, life string) { s.order(life, container, func(a *actor) { a.failing[kind] = true }) }
}

// failsFirst is a script: a probe fails in the first run.
func failsFirst(container, kind string) func(*stage, string) {
	return func(s *stage, life string) {
		s.order(life, container, func(a *actor) { a.failing[kind], a.heals = true, true })
	}
}

func both(scripts ...func(*stage, string)) func(*stage, string) {
	return func(s *stage, life string) {
		for _, f := range scripts {
			f(s, life)
		}
	}
}
