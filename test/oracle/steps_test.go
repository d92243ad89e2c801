package oracle_test

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kinds of probes.
const (
	startup   = "startup"
	readiness = "readiness"
	liveness  = "liveness"
)

// exit ends the present run of a container, or where none runs, its next one.
func exit(container string, code int) step { return exitWith(container, end{code: code}) }

func exitWith(container string, e end) step {
	return step{name: fmt.Sprintf("%s exits with %d", container, e.code), do: func(p *play) error {
		p.stage.order(p.name, container, func(a *actor) { a.ends = append(a.ends, e) })
		return nil
	}}
}

// probe makes a probe fail or succeed from now on, and waits until it has been asked n times since.
func probe(container, kind string, ok bool, n int) step {
	return step{name: fmt.Sprintf("%s of %s becomes %v", kind, container, ok), do: func(p *play) error {
		p.stage.order(p.name, container, func(a *actor) {
			a.failing[kind], a.asked[kind] = !ok, 0
			a.heals = kind == liveness && !ok // else it would be killed again and again
		})
		for _, s := range sides {
			p.asked[part{s, p.name, container}] = map[string]int{kind: n}
		}
		return nil
	}}
}

// failOnce makes a probe fail until the run has ended for it, and waits for the next run.
func failOnce(container, kind string, runs int) step {
	return step{name: fmt.Sprintf("%s of %s fails", kind, container), do: func(p *play) error {
		p.stage.order(p.name, container, func(a *actor) { a.failing[kind], a.heals = true, true })
		return nil
	}, until: begun(container, runs)}
}

// await waits for something that comes by itself.
func await(until func(*play) string) step {
	return step{name: "time goes by", do: func(*play) error { return nil }, until: until}
}

// begun is when a container has begun n runs on both sides.
func begun(container string, n int) func(*play) string {
	return func(p *play) string {
		for _, s := range sides {
			if a, _ := p.stage.look(part{s, p.name, container}); a.begun < n {
				return fmt.Sprintf("%s: %s has begun %d times, want %d", s, container, a.begun, n)
			}
		}
		return ""
	}
}

// phase is when both Pods have come to it.
func phase(want corev1.PodPhase) func(*play) string {
	return func(p *play) string {
		for _, s := range sides {
			if seen, _ := p.pods.look(s, p.name); seen.pod.Status.Phase != want {
				return fmt.Sprintf("%s: phase %s, want %s", s, seen.pod.Status.Phase, want)
			}
		}
		return ""
	}
}

// gone is when both Pods are.
func gone(p *play) string {
	for _, s := range sides {
		if seen, _ := p.pods.look(s, p.name); !seen.gone {
			return string(s) + ": the Pod is still there"
		}
	}
	return ""
}

// remove deletes the Pod, with its own grace period, and waits until it is gone: what it told last is compared.
func remove() step {
	return step{name: "deleted", do: func(p *play) error { return p.delete(metav1.DeleteOptions{}) }, until: gone}
}

// removeIn deletes it with a grace period in seconds.
func removeIn(seconds int64) step {
	return step{name: fmt.Sprintf("deleted with %d s", seconds), do: func(p *play) error {
		return p.delete(metav1.DeleteOptions{GracePeriodSeconds: &seconds})
	}, until: gone}
}

func (p *play) delete(o metav1.DeleteOptions) error {
	return p.each(func(s side) error { return p.Client.CoreV1().Pods(string(s)).Delete(context.Background(), p.name, o) })
}

// label changes a label.
func label(value string) step {
	return step{name: "labelled " + value, do: func(p *play) error { return p.patch(`{"metadata":{"labels":{"step":"` + value + `"}}}`) }}
}

// tolerate changes what of the spec may be changed, and with it the generation.
func tolerate(key string) step {
	return step{name: "tolerates " + key, do: func(p *play) error {
		return p.change(func(pod *corev1.Pod) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
		})
	}}
}

// ephemeral adds an ephemeral container.
func ephemeral(name string) step {
	return step{name: "ephemeral container " + name, do: func(p *play) error {
		return p.each(func(s side) error {
			pod, err := p.Client.CoreV1().Pods(string(s)).Get(context.Background(), p.name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			c := corev1.Container{Name: name}
			p.dress(&c)
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
				EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: c.Image, Command: c.Command}})
			_, err = p.Client.CoreV1().Pods(string(s)).UpdateEphemeralContainers(context.Background(), p.name, pod, metav1.UpdateOptions{})
			return err
		})
	}, until: begun(name, 1)}
}

// visit adds an ephemeral container that ends at once, if the Pod still runs.
func visit(name string, code int) step {
	s := ephemeral(name)
	add := s.do
	s.name, s.until = fmt.Sprintf("%s visits and leaves with %d", name, code), nil
	s.do = func(p *play) error {
		for _, s := range sides {
			if seen, _ := p.pods.look(s, p.name); seen.pod.Status.Phase != corev1.PodRunning {
				return nil
			}
		}
		p.stage.order(p.name, name, func(a *actor) { a.ends = append(a.ends, end{code: code}) })
		return add(p)
	}
	return s
}
