package oracle_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// TestRandomLives lives lives that nobody has thought of: -lives of them at once, each from a seed of its own, which a failure tells.
func TestRandomLives(t *testing.T) {
	h := theHouse(t)
	for i := range *random {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(r *rapid.T) {
				l := draw(r)
				h.live(loud{r, t, describe(l)}, l)
			})
		})
	}
}

// loud tells of a failure when it is found, not only when package rapid has tried to make it smaller.
type loud struct {
	*rapid.T
	test *testing.T
	life string
}

func (l loud) Fatalf(format string, args ...any) {
	l.test.Logf("%s\n%s", l.life, fmt.Sprintf(format, args...))
	l.T.Fatalf(format, args...)
}

var number atomic.Int64 // of random lives: their names

// draw makes a life. Its times keep clear of each other: what ends by itself does so well within its grace period.
func draw(t *rapid.T) life {
	policy := rapid.SampledFrom([]corev1.RestartPolicy{always, onFailure, never}).Draw(t, "policy")
	mains := rapid.Permutation([]string{"a", "b", "c"}).Draw(t, "order")[:rapid.IntRange(1, 3).Draw(t, "containers")]
	first := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"i", "j", "side1", "side2"}), 0, 3, rapid.ID).Draw(t, "init containers")
	l := life{name: fmt.Sprintf("random-%d", number.Add(1)), spec: with(pod(policy, mains...), inits(first...), grace(rapid.Int64Range(2, 3).Draw(t, "grace")))}
	names := slices.Concat(mains, first)
	var scripts []func(*stage, string)
	probed := map[string][]string{}
	for _, n := range names {
		how := parting{code: rapid.SampledFrom([]int{0, 5}).Draw(t, n+" parts with"), after: time.Duration(rapid.IntRange(0, 1).Draw(t, n+" parts after")) * 500 * time.Millisecond,
			ignore: rapid.IntRange(0, 4).Draw(t, n+" ignores") == 4}
		scripts = append(scripts, at(n, how))
		if strings.HasPrefix(n, "i") || strings.HasPrefix(n, "j") {
			continue
		}
		if probed[n] = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{readiness, liveness}), 0, 2, rapid.ID).Draw(t, n+" is asked for"); len(probed[n]) > 0 {
			probes(n, probed[n]...)(&l.spec)
		}
	}
	l.script = both(scripts...)
	for _, n := range mains {
		if rapid.IntRange(0, 3).Draw(t, n+" has a policy") == 3 {
			own := rapid.SampledFrom([]corev1.ContainerRestartPolicy{corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure,
				corev1.ContainerRestartPolicyNever}).Draw(t, n+"'s policy")
			container(n, func(c *corev1.Container) { c.RestartPolicy = &own })(&l.spec)
		}
		if rapid.IntRange(0, 3).Draw(t, n+" has resources") == 3 {
			resources(n, "100m", "64Mi", rapid.SampledFrom([]string{"", "300m"}).Draw(t, n+"'s CPU"), rapid.SampledFrom([]string{"", "96Mi"}).Draw(t, n+"'s memory"))(&l.spec)
		}
	}
	exits := map[string]int{}
	for i := range rapid.IntRange(1, 6).Draw(t, "steps") {
		l.steps = append(l.steps, drawStep(t, names, probed, exits, i))
	}
	l.steps = append(l.steps, remove())
	return l
}

func drawStep(t *rapid.T, names []string, probed map[string][]string, exits map[string]int, i int) step {
	n := rapid.SampledFrom(names).Draw(t, "container")
	exit := func(e end) step {
		if exits[n]++; exits[n] > 2 { // the back-off would last longer than a life
			return label("y")
		}
		return exitWith(n, e)
	}
	switch kind := rapid.SampledFrom([]string{"exit", "exit", "exit", "probe", "label", "tolerate", "last words", "visit"}).Draw(t, "event"); {
	case kind == "probe" && len(probed[n]) > 0:
		return probe(n, rapid.SampledFrom(probed[n]).Draw(t, "probe"), rapid.Bool().Draw(t, "succeeds"), 3)
	case kind == "label":
		return label("x")
	case kind == "tolerate":
		return tolerate(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "key"))
	case kind == "visit":
		return visit(fmt.Sprintf("visitor%d", i), rapid.IntRange(0, 1).Draw(t, "leaves with"))
	case kind == "last words":
		return exit(end{code: rapid.IntRange(0, 1).Draw(t, "code"), message: "goodbye"})
	default:
		return exit(end{code: rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "code")})
	}
}

// describe says in words what rapid has drawn.
func describe(l life) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, init containers", l.name, l.spec.RestartPolicy)
	for _, c := range l.spec.InitContainers {
		fmt.Fprintf(&b, " %s", c.Name)
	}
	b.WriteString(", containers")
	for _, c := range l.spec.Containers {
		fmt.Fprintf(&b, " %s", c.Name)
	}
	for _, s := range l.steps {
		fmt.Fprintf(&b, "; %s", s.name)
	}
	return b.String()
}
