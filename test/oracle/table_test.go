package oracle_test

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// lives is the table: what a Pod's life can be, one thing at a time.
func lives() []life {
	return slices.Concat(exits(), initial(), sidecars(), probed(), stopped(), others())
}

func exits() []life {
	return []life{
		{name: "always-exits-0", spec: pod(always, "a"), steps: []step{exit("a", 0), remove()}},
		{name: "always-exits-1", spec: pod(always, "a"), steps: []step{exit("a", 1), exit("a", 1), await(begun("a", 3)), remove()}},
		{name: "on-failure-exits-0", spec: pod(onFailure, "a"), steps: []step{exit("a", 0), remove()}},
		{name: "on-failure-exits-1", spec: pod(onFailure, "a"), steps: []step{exit("a", 1), exit("a", 1), await(begun("a", 3)), exit("a", 0), remove()}},
		{name: "never-exits-0", spec: pod(never, "a"), steps: []step{exit("a", 0), remove()}},
		{name: "never-exits-1", spec: pod(never, "a"), steps: []step{exit("a", 1), remove()}},
		{name: "two-of-three-end", spec: pod(never, "c", "a", "b"), steps: []step{exit("a", 0), exit("c", 3), exit("b", 0), remove()}},
		{name: "unsorted", spec: pod(always, "z", "m", "a"), steps: []step{exit("m", 1), label("x"), remove()}},
		{name: "one-in-backoff", spec: pod(always, "b", "a"), steps: []step{exit("b", 0), exit("b", 5), remove()}},
		{name: "message", spec: pod(onFailure, "a"), steps: []step{exitWith("a", end{code: 4, message: "no more"}), exitWith("a", end{message: "enough"}), remove()}},
		{name: "message-from-log", spec: with(pod(never, "a"), container("a", func(c *corev1.Container) {
			c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		})), steps: []step{exitWith("a", end{code: 4, output: "the last line"}), remove()}},
		{name: "message-of-log-unneeded", spec: with(pod(never, "a"), container("a", func(c *corev1.Container) {
			c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		})), steps: []step{exitWith("a", end{output: "all is well"}), remove()}},
		{name: "own-policy", spec: with(pod(always, "a", "b"), container("a", func(c *corev1.Container) {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
		})), steps: []step{exit("a", 1), exit("b", 1), remove()}},
		{name: "own-rules", spec: with(pod(never, "a"), container("a", func(c *corev1.Container) {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{
				Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
		})), steps: []step{exit("a", 42), exit("a", 1), remove()}},
	}
}

func initial() []life {
	return []life{
		{name: "init", spec: with(pod(always, "a"), inits("y", "x")), steps: []step{exit("y", 0), exit("x", 0), exit("a", 1), remove()}},
		{name: "init-fails-never", spec: with(pod(never, "a"), inits("i")), steps: []step{exit("i", 2), remove()}},
		{name: "init-retries", spec: with(pod(onFailure, "a"), inits("i")), steps: []step{exit("i", 2), exit("i", 0), exit("a", 0), remove()}},
		{name: "init-backs-off", spec: with(pod(always, "a"), inits("i")), steps: []step{exit("i", 2), exit("i", 2), remove()}},
		{name: "init-deleted", spec: with(pod(always, "a"), inits("i", "j")), steps: []step{exit("i", 0), remove()}},
		{name: "init-job", spec: with(pod(never, "b", "a"), inits("i")), steps: []step{exit("i", 0), exit("a", 0), exit("b", 1), remove()}},
	}
}

func sidecars() []life {
	return []life{
		{name: "sidecar-job", spec: with(pod(never, "a"), inits("side")), steps: []step{exit("a", 0), remove()}},
		{name: "sidecar-job-fails", spec: with(pod(never, "a"), inits("side")), script: at("side", parting{code: 7}), steps: []step{exit("a", 1), remove()}},
		{name: "sidecar-restarts", spec: with(pod(onFailure, "a"), inits("side", "i")), steps: []step{exit("side", 1), exit("i", 0), exit("side", 0), exit("a", 0), remove()}},
		{name: "sidecar-starts-first", spec: with(pod(always, "a"), inits("side"), probes("side", startup), container("side", func(c *corev1.Container) {
			c.StartupProbe.FailureThreshold = 100
		})), script: fails("side", startup), steps: []step{probe("side", startup, true, 1), remove()}},
		{name: "sidecar-ready", spec: with(pod(always, "a"), inits("side"), probes("side", readiness)), steps: []step{probe("side", readiness, false, 3),
			probe("side", readiness, true, 1), remove()}},
		{name: "sidecars-in-order", spec: with(pod(always, "a"), inits("side1", "side2"), grace(20)), script: both(at("a", parting{after: time.Second}),
			at("side2", parting{after: time.Second, code: 3}), at("side1", parting{code: 4})), steps: []step{remove()}},
		{name: "sidecar-has-two-seconds", spec: with(pod(always, "a"), inits("side"), grace(2)), script: both(at("a", parting{ignore: true}),
			at("side", parting{after: time.Second, code: 6})), steps: []step{remove()}},
	}
}

func probed() []life {
	return []life{
		{name: "readiness", spec: with(pod(always, "a", "b"), probes("a", readiness)), steps: []step{probe("a", readiness, false, 3), probe("a", readiness, true, 1), remove()}},
		{name: "never-ready", spec: with(pod(always, "a"), probes("a", readiness)), script: fails("a", readiness), steps: []step{label("x"), exit("a", 1), remove()}},
		{name: "startup", spec: with(pod(always, "a"), probes("a", startup, readiness)), script: failsFirst("a", startup), steps: []step{await(begun("a", 2)), remove()}},
		{name: "liveness", spec: with(pod(always, "a"), probes("a", liveness)), steps: []step{failOnce("a", liveness, 2), failOnce("a", liveness, 3), remove()}},
		{name: "liveness-never", spec: with(pod(never, "a", "b"), probes("a", liveness)), steps: []step{probe("a", liveness, false, 3), remove()}},
		{name: "liveness-ignored", spec: with(pod(always, "a"), probes("a", liveness), grace(2)), script: at("a", parting{ignore: true}),
			steps: []step{failOnce("a", liveness, 2), removeIn(1)}},
		{name: "all-probes", spec: with(pod(onFailure, "a"), probes("a", startup, readiness, liveness)), script: both(fails("a", readiness), at("a", parting{code: 9})),
			steps: []step{probe("a", readiness, true, 1), failOnce("a", liveness, 2), exit("a", 0), remove()}},
	}
}

func stopped() []life {
	deadline := func(seconds int64) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) { s.ActiveDeadlineSeconds = &seconds }
	}
	return []life{
		{name: "deleted-running", spec: pod(always, "a"), steps: []step{remove()}},
		{name: "deleted-and-ends-well", spec: pod(never, "a", "b"), script: at("a", parting{code: 0, after: time.Second}), steps: []step{remove()}},
		{name: "deleted-ignored", spec: with(pod(always, "a", "b"), grace(2)), script: at("a", parting{ignore: true}), steps: []step{remove()}},
		{name: "deleted-in-one", spec: pod(always, "a"), script: at("a", parting{after: 1500 * time.Millisecond, code: 8}), steps: []step{removeIn(1)}},
		{name: "deleted-in-backoff", spec: pod(always, "a"), steps: []step{exit("a", 1), exit("a", 2), remove()}},
		{name: "deadline", spec: with(pod(always, "a"), deadline(5)), steps: []step{await(phase(corev1.PodFailed)), label("after"), remove()}},
		{name: "deadline-in-init", spec: with(pod(never, "a"), inits("i"), deadline(5)), steps: []step{await(phase(corev1.PodFailed)), remove()}},
		{name: "deadline-ignored", spec: with(pod(never, "a", "b"), deadline(5), grace(2)), script: at("b", parting{ignore: true}), steps: []step{exit("a", 0),
			await(phase(corev1.PodFailed)), remove()}},
	}
}

func others() []life {
	return []life{
		{name: "generations", spec: pod(never, "a"), steps: []step{tolerate("x"), exit("a", 0), tolerate("y"), remove()}},
		{name: "ephemeral", spec: pod(always, "a"), steps: []step{ephemeral("z"), ephemeral("d"), exit("z", 1), exit("a", 1), remove()}},
		{name: "ephemeral-ends-with-pod", spec: pod(never, "a"), steps: []step{ephemeral("d"), exit("a", 0), remove()}},
		{name: "resources", spec: with(pod(always, "b", "a"), inits("i", "side"), resources("a", "100m", "64Mi", "200m", "128Mi"), resources("b", "", "32Mi", "", ""),
			resources("i", "500m", "", "1", "")), steps: []step{exit("i", 0), exit("a", 1), remove()}},
		{name: "limits-but-for-a-sidecar", spec: with(pod(always, "a"), inits("side"), resources("a", "100m", "64Mi", "300m", "96Mi")), steps: []step{exit("a", 1), remove()}},
		{name: "visitor", spec: pod(never, "a", "b"), steps: []step{exit("b", 0), visit("v", 1), tolerate("x"), exit("a", 3), remove()}},
		{name: "pod-resources", spec: with(pod(onFailure, "a", "b"), resources("a", "100m", "64Mi", "", ""), func(s *corev1.PodSpec) {
			s.Resources = new(amounts("1", "256Mi", "2", "512Mi"))
		}), steps: []step{exit("a", 0), exit("b", 0), remove()}},
	}
}
