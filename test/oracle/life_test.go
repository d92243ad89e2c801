package oracle_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"
)

// life is a Pod and what happens to it.
type life struct {
	name   string // a DNS label
	spec   corev1.PodSpec
	script func(*stage, string) // before the Pod is there; may be nil
	steps  []step
}

// step is one thing that happens, and what it takes to be over beyond that both statuses tell of all that the containers did.
type step struct {
	name  string
	do    func(*play) error
	until func(*play) string // what is missing; may be nil
}

// reporter is a test, or a check of package rapid.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// How long a step may take to its end, the back-off of a second restart included, and how long nothing has to change then. A kubelet looks at
// its containers once a second.
const (
	patience = 75 * time.Second
	calm     = 3500 * time.Millisecond
)

// play is a life that is lived.
type play struct {
	*house
	reporter
	name  string
	asked map[part]map[string]int // how often probes have to answer before the step is over
}

// live lives the life on both sides and compares the statuses after each step. Both Pods are gone afterwards.
func (h *house) live(t reporter, l life) {
	t.Helper()
	p := &play{house: h, reporter: t, name: l.name, asked: map[part]map[string]int{}}
	if l.script != nil {
		l.script(h.stage, l.name)
	}
	defer p.remove()
	p.step(step{name: "created", do: func(p *play) error { return p.create(l.spec) }, until: begun(first(l.spec), 1)})
	for _, s := range l.steps {
		if name, runs := p.due(); name != "" {
			p.step(step{name: name + " starts again", do: func(*play) error { return nil }, until: begun(name, runs+1)})
		}
		p.step(s)
	}
}

// due names a container whose back-off is about to end, and how many runs it has begun: what happened now would meet the two sides on different
// sides of it.
func (p *play) due() (container string, runs int) {
	seen, _ := p.pods.look(kubelets, p.name)
	for _, c := range containers(seen.pod) {
		w, last := c.State.Waiting, c.LastTerminationState.Terminated
		if w == nil || w.Reason != "CrashLoopBackOff" || last == nil {
			continue
		}
		var text string
		if _, err := fmt.Sscanf(w.Message, "back-off %s restarting", &text); err != nil {
			continue
		}
		if d, err := time.ParseDuration(text); err == nil && time.Until(last.FinishedAt.Add(d)) < 3*time.Second {
			a, _ := p.stage.look(part{kubelets, p.name, c.Name})
			return c.Name, a.begun
		}
	}
	return "", 0
}

// first is a container that begins by itself, as the last of those that do where no probe is in the way.
func first(spec corev1.PodSpec) string {
	for _, c := range spec.InitContainers {
		if c.RestartPolicy == nil || c.StartupProbe != nil {
			return c.Name
		}
	}
	return spec.Containers[0].Name
}

// create makes both Pods.
func (p *play) create(spec corev1.PodSpec) error {
	for _, s := range sides {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: string(s), Labels: map[string]string{"life": p.name}}, Spec: *spec.DeepCopy()}
		pod.Spec.NodeName = string(s)
		pod.Spec.AutomountServiceAccountToken = new(false)
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				p.dress(&list[i])
			}
		}
		if _, err := p.Client.CoreV1().Pods(string(s)).Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// dress gives a container its program.
func (p *play) dress(c *corev1.Container) {
	c.Image, c.Command = imageName, []string{"/actor", p.name, c.Name}
	for kind, k := range map[string]*corev1.Probe{startup: c.StartupProbe, readiness: c.ReadinessProbe, liveness: c.LivenessProbe} {
		if k != nil {
			k.Exec = &corev1.ExecAction{Command: []string{"/probe", p.name, c.Name, kind}}
		}
	}
}

// each does f to both Pods.
func (p *play) each(f func(s side) error) error {
	for _, s := range sides {
		if err := f(s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func (p *play) patch(data string) error {
	return p.each(func(s side) error {
		_, err := p.Client.CoreV1().Pods(string(s)).Patch(context.Background(), p.name, types.StrategicMergePatchType, []byte(data), metav1.PatchOptions{})
		return err
	})
}

// change changes both Pods.
func (p *play) change(f func(*corev1.Pod)) error {
	return p.each(func(s side) error {
		return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			pod, err := p.Client.CoreV1().Pods(string(s)).Get(context.Background(), p.name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			f(pod)
			_, err = p.Client.CoreV1().Pods(string(s)).Update(context.Background(), pod, metav1.UpdateOptions{})
			return err
		})
	})
}

// remove deletes what is left of both Pods at the end of a life.
func (p *play) remove() {
	for _, s := range sides {
		if seen, _ := p.pods.look(s, p.name); seen == nil || !seen.gone {
			_ = p.Client.CoreV1().Pods(string(s)).Delete(context.Background(), p.name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		}
	}
}

// step takes a step and waits until both sides agree and stay so.
func (p *play) step(s step) {
	p.Helper()
	clear(p.asked)
	if err := s.do(p); err != nil {
		p.Fatalf("%s: %v", s.name, err)
	}
	began := time.Now()
	end := time.NewTimer(patience)
	defer end.Stop()
	quiet := time.NewTimer(calm)
	defer quiet.Stop()
	var last string
	for {
		missing, statuses, podNews, stageNews := p.missing(s)
		if missing == "" && statuses == last {
			select {
			case <-quiet.C:
				p.agreed(s, began)
				return
			default:
			}
		} else {
			quiet.Reset(calm)
			last = statuses
		}
		fire := quiet.C
		if missing != "" {
			fire = nil
		}
		select {
		case <-podNews:
		case <-stageNews:
		case <-fire:
			p.agreed(s, began)
			return
		case <-end.C:
			p.Fatalf("%s: %s", s.name, missing)
		}
	}
}

func (p *play) agreed(s step, began time.Time) {
	text := fmt.Sprintf("%s: agreed after %s", s.name, (time.Since(began) - calm).Round(100*time.Millisecond))
	for _, side := range sides {
		seen, _ := p.pods.look(side, p.name)
		text += fmt.Sprintf("; %s: %s, generation %d", side, seen.pod.Status.Phase, seen.pod.Generation)
	}
	p.Logf("%s", text)
}

// missing says what a step still lacks, and how the statuses are now.
func (p *play) missing(s step) (missing, statuses string, podNews, stageNews <-chan struct{}) {
	text := map[side]string{}
	var both [2]*seen
	for i, side := range sides {
		both[i], podNews = p.pods.look(side, p.name)
	}
	_, stageNews = p.stage.look(part{gondolas, p.name, ""})
	for _, c := range names(both[0]) {
		k, _ := p.stage.look(part{kubelets, p.name, c})
		g, _ := p.stage.look(part{gondolas, p.name, c})
		if k.begun != g.begun || k.ended != g.ended {
			missing = fmt.Sprintf("%s has begun %d times with the kubelet and ended %d times, with Gondola %d and %d", c, k.begun, k.ended, g.begun, g.ended)
		}
	}
	for i, side := range sides {
		if both[i] == nil {
			return fmt.Sprintf("%s: the Pod is not there", side), "", podNews, stageNews
		}
		text[side] = show(both[i])
		if m := p.behind(side, both[i]); m != "" && missing == "" {
			missing = fmt.Sprintf("%s: %s; status:\n%s", side, m, text[side])
		}
	}
	statuses = text[kubelets] + text[gondolas]
	if missing == "" && text[kubelets] != text[gondolas] {
		missing = "the statuses differ (-kubelet +gondola):\n" + cmp.Diff(strings.Split(text[kubelets], "\n"), strings.Split(text[gondolas], "\n")) +
			"\nkubelet has:\n" + text[kubelets]
	}
	if missing == "" && s.until != nil {
		if m := s.until(p); m != "" {
			missing = m + "; both statuses:\n" + text[kubelets]
		}
	}
	return missing, statuses, podNews, stageNews
}

func show(s *seen) string {
	status := normal(s.pod)
	b, err := yaml.Marshal(&status)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("gone: %v\n%s", s.gone, b)
}

// behind says what the containers of a side have done that the status does not tell yet.
func (p *play) behind(s side, seen *seen) string {
	pod := seen.pod
	for _, c := range containers(pod) {
		a, _ := p.stage.look(part{s, p.name, c.Name})
		running := a.begun > a.ended
		switch {
		case running && len(a.ends) > 0:
			return c.Name + " has been told to end"
		case running && a.parting:
			return c.Name + " has got SIGTERM"
		case !running && c.State.Running != nil:
			return fmt.Sprintf("%s has ended %d times", c.Name, a.ended)
		case running && c.State.Running == nil, a.begun > 0 && int(c.RestartCount) != a.begun-1:
			return fmt.Sprintf("%s has begun %d times", c.Name, a.begun)
		}
		for probe, n := range p.asked[part{s, p.name, c.Name}] {
			if running && a.asked[probe] < n {
				return fmt.Sprintf("%s was asked %d times for its %s", c.Name, a.asked[probe], probe)
			}
		}
	}
	return ""
}

// names are those of a Pod's containers.
func names(s *seen) (out []string) {
	if s == nil {
		return nil
	}
	for _, list := range [][]corev1.Container{s.pod.Spec.InitContainers, s.pod.Spec.Containers} {
		for _, c := range list {
			out = append(out, c.Name)
		}
	}
	return out
}

func containers(pod *corev1.Pod) (out []corev1.ContainerStatus) {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		out = append(out, list...)
	}
	return out
}
