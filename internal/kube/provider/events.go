package provider

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"gondola"
)

// tell records the Machine's notes as Events of the Pod, each once. After a restart of the provider only notes younger than it are news.
func (e *engine) tell(n *node, pod *corev1.Pod, m *gondola.Machine, w *work) {
	if m.Gondola == nil {
		return
	}
	fresh := w.noted || w.createdHere
	for _, note := range m.Gondola.Notes {
		if note.Seq <= w.noteSeq && w.noted {
			continue
		}
		w.noteSeq, w.noted = max(w.noteSeq, note.Seq), true
		if !fresh && note.Time.Before(e.began) {
			continue
		}
		kind := corev1.EventTypeNormal
		if note.Warning {
			kind = corev1.EventTypeWarning
		}
		e.eventf(n, pod, containerPath(pod, note.Container), kind, note.Reason, "%s", note.Message)
	}
	w.noted = true
}

// eventf records an Event about the Pod, or about the container at the field path.
func (e *engine) eventf(n *node, pod *corev1.Pod, path, kind, reason, format string, args ...any) {
	ref := &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion, FieldPath: path,
	}
	message := fmt.Sprintf(format, args...)
	if len(message) > 1000 { // the API takes 1024 bytes
		message = message[:1000] + "…"
	}
	n.recorder.Event(ref, kind, reason, message)
}

// containerPath is where a container is in its Pod, empty for none.
func containerPath(pod *corev1.Pod, name string) string {
	is := func(c corev1.Container) bool { return c.Name == name }
	switch {
	case name == "":
		return ""
	case slices.ContainsFunc(pod.Spec.InitContainers, is):
		return fmt.Sprintf("spec.initContainers{%s}", name)
	case isEphemeral(pod, name):
		return fmt.Sprintf("spec.ephemeralContainers{%s}", name)
	default:
		return fmt.Sprintf("spec.containers{%s}", name)
	}
}

func isEphemeral(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}
