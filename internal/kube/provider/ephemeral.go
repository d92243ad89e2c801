package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"gondola"
	"gondola/internal/kube/translate"
)

// addEphemeral brings the Pod's ephemeral containers into its Machine, one by one. It returns when to look again; zero: there is nothing to do.
func (e *engine) addEphemeral(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work) (time.Duration, error) {
	if m.State != gondola.Started && m.State != gondola.Starting {
		return 0, nil
	}
	for i := range pod.Spec.EphemeralContainers {
		name := pod.Spec.EphemeralContainers[i].Name
		if w.refusedHere[name] != "" || slices.ContainsFunc(m.Config.Containers, func(c gondola.Container) bool { return c.Name == name }) {
			continue
		}
		if st, ok := podutil.GetContainerStatus(pod.Status.EphemeralContainerStatuses, name); ok && (st.State.Terminated != nil || st.ContainerID != "") {
			continue // it had its run
		}
		in, err := e.inputs(ctx, n, pod, driverOf(m))
		if err == nil {
			in.Tokens, _, err = n.podTokens(pod)
		}
		if err != nil {
			return 0, err
		}
		return e.addOne(ctx, n, pod, m, w, i, in)
	}
	return 0, nil
}

func (e *engine) addOne(ctx context.Context, n *node, pod *corev1.Pod, m *gondola.Machine, w *work, i int, in translate.Inputs) (time.Duration, error) {
	name := pod.Spec.EphemeralContainers[i].Name
	c, err := translate.EphemeralContainer(pod, i, in)
	var payload *gondola.Payload
	if err == nil {
		payload, err = translate.Payload(pod, in)
	}
	if err == nil {
		err = e.cfg.Platform.AddContainer(ctx, m.Ref(), gondola.AddContainerRequest{Container: c, Payload: payload})
	}
	var missing *translate.MissingError
	switch {
	case err == nil:
		w.waiting, w.payload = nil, digest(payload)
		return 0, nil
	case errors.As(err, &missing):
		w.waiting = &translate.Waiting{Container: name, Reason: "CreateContainerConfigError", Message: missing.Message}
		e.eventf(n, pod, containerPath(pod, name), corev1.EventTypeWarning, "Failed", "Error: %s", missing.Message)
		return 5 * time.Second, nil
	case errors.Is(err, gondola.ErrUnsupported), errors.Is(err, gondola.ErrInvalid), errors.Is(err, gondola.ErrConflict):
		if w.refusedHere == nil {
			w.refusedHere = map[string]string{}
		}
		w.refusedHere[name] = err.Error()
		e.eventf(n, pod, containerPath(pod, name), corev1.EventTypeWarning, "Unsupported", "%v", err)
		return time.Millisecond, nil // to report it
	case errors.Is(err, gondola.ErrPrecondition):
		return time.Second, nil
	}
	return 0, fmt.Errorf("add ephemeral container %s to machine %s of pod %s/%s: %w", name, m.ID, pod.Namespace, pod.Name, err)
}
