package translate

import corev1 "k8s.io/api/core/v1"

// TokenKey is a service account token that a Pod wants: for whom, and how many seconds it lives.
type TokenKey struct {
	Audience string // If empty, the API server's.
	Seconds  int64
}

func tokenKey(p *corev1.ServiceAccountTokenProjection) TokenKey {
	k := TokenKey{Audience: p.Audience, Seconds: 3600}
	if p.ExpirationSeconds != nil {
		k.Seconds = *p.ExpirationSeconds
	}
	return k
}

// Tokens lists the service account tokens that the Pod's volumes hold.
func Tokens(pod *corev1.Pod) []TokenKey {
	var out []TokenKey
	seen := map[TokenKey]bool{}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken == nil || seen[tokenKey(s.ServiceAccountToken)] {
				continue
			}
			k := tokenKey(s.ServiceAccountToken)
			seen[k] = true
			out = append(out, k)
		}
	}
	return out
}

// tokenMode is the mode of a token's file: with an fsGroup only owner and group read it, as a kubelet does.
func tokenMode(pod *corev1.Pod, mode *int32) *int32 {
	if s := pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return ptr(int32(0o600))
	}
	return mode
}
