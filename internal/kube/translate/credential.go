package translate

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"gondola"
)

// dockerAuth is an entry of a docker config.json.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password
	IdentityToken string `json:"identitytoken"`
}

// credentials reads the Pod's pull secrets. One that is missing or cannot be read is passed over, as a kubelet does: the pull may work
// without it.
func credentials(pod *corev1.Pod, in Inputs) []gondola.RegistryCredential {
	var out []gondola.RegistryCredential
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, ok := in.Secrets[ref.Name]
		if !ok {
			continue
		}
		auths := map[string]dockerAuth{}
		switch s.Type {
		case corev1.SecretTypeDockerConfigJson:
			var file struct {
				Auths map[string]dockerAuth `json:"auths"`
			}
			if json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file) == nil {
				auths = file.Auths
			}
		case corev1.SecretTypeDockercfg:
			_ = json.Unmarshal(s.Data[corev1.DockerConfigKey], &auths)
		}
		for _, registry := range slices.Sorted(maps.Keys(auths)) {
			out = append(out, auths[registry].credential(registry))
		}
	}
	return out
}

func (a dockerAuth) credential(registry string) gondola.RegistryCredential {
	if a.Username == "" && a.Auth != "" {
		if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			a.Username, a.Password, _ = strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		}
	}
	registry = strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://")
	registry = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(registry, "/"), "/v1"), "/v2")
	return gondola.RegistryCredential{Registry: registry, Username: a.Username, Password: a.Password, Token: a.IdentityToken}
}
