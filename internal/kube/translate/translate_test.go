package translate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"gondola"
	"gondola/internal/kube/translate"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// goldens runs f on every testdata/<prefix>*.txtar; f gets the archive's files and returns the one that it makes.
func goldens(t *testing.T, prefix string, f func(t *testing.T, files map[string][]byte) (name string, made []byte)) {
	paths, err := filepath.Glob("testdata/" + prefix + "*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens testdata/%s*.txtar: %v", prefix, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string][]byte{}
			for _, file := range a.Files {
				files[file.Name] = file.Data
			}
			name, made := f(t, files)
			if *update {
				kept := a.Files[:0]
				for _, file := range a.Files {
					if file.Name != name {
						kept = append(kept, file)
					}
				}
				a.Files = append(kept, txtar.File{Name: name, Data: made})
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(files[name], made) {
				t.Errorf("%s in %s differs (go test -update rewrites it)\ngot:\n%s\nwant:\n%s", name, path, made, files[name])
			}
		})
	}
}

func TestPodToMachine(t *testing.T) {
	goldens(t, "pod-", func(t *testing.T, files map[string][]byte) (string, []byte) {
		pod := parsePod(t, files["pod.yaml"])
		in := inputs(t, pod, files["objects.yaml"])
		var first []byte
		for range 20 { // maps have no order: the same Pod must give the same Machine
			if _, bare := files["no-gateway"]; !bare {
				in.Gateway = pod.Spec.NodeName
			}
			if c := pod.Spec.RuntimeClassName; c != nil && *c != "kata" {
				in.Driver = *c
			}
			req, err := translate.PodToMachine(pod, in)
			if err != nil {
				return "error", []byte(err.Error() + "\n")
			}
			if err := req.Config.Validate(); err != nil {
				t.Errorf("the platform would refuse it: %v", err)
			}
			made := readable(t, req)
			if first == nil {
				first = made
			}
			if !bytes.Equal(first, made) {
				t.Fatalf("the same Pod gave\n%s\nand then\n%s", first, made)
			}
		}
		return "machine.json", first
	})
}

func TestPodStatus(t *testing.T) {
	goldens(t, "status-", func(t *testing.T, files map[string][]byte) (string, []byte) {
		pod := parsePod(t, files["pod.yaml"])
		var m *gondola.Machine
		if raw, ok := files["machine.json"]; ok {
			m = &gondola.Machine{}
			if err := json.Unmarshal(raw, m); err != nil {
				t.Fatal(err)
			}
		}
		o := translate.Observed{HostIPs: []netip.Addr{netip.MustParseAddr("10.99.0.2")}, Now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
		if raw, ok := files["observed.yaml"]; ok {
			var more translate.Observed
			if err := yaml.Unmarshal(raw, &more); err != nil {
				t.Fatal(err)
			}
			o.Failure, o.Waiting, o.Over, o.Refused = more.Failure, more.Waiting, more.Over, more.Refused
		}
		status := translate.PodStatus(pod, m, o)
		pod.Status = status
		o.Now = o.Now.Add(time.Hour)
		if again := translate.PodStatus(pod, m, o); !equalYAML(t, status, again) {
			t.Errorf("the same Machine an hour later is another status: %s", toYAML(t, again))
		}
		return "status.yaml", toYAML(t, status)
	})
}

func toYAML(t *testing.T, v any) []byte {
	raw, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func equalYAML(t *testing.T, a, b any) bool { return bytes.Equal(toYAML(t, a), toYAML(t, b)) }

func parsePod(t *testing.T, raw []byte) *corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(raw, &pod); err != nil {
		t.Fatal(err)
	}
	return &pod
}

// inputs are those of a small cluster with the ConfigMaps, Secrets and Services of a list of YAML documents.
func inputs(t *testing.T, pod *corev1.Pod, objects []byte) translate.Inputs {
	t.Helper()
	in := translate.Inputs{Cluster: "demo", Domain: "cluster.local", DNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, Region: "fra",
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi")},
		ConfigMaps:  map[string]*corev1.ConfigMap{}, Secrets: map[string]*corev1.Secret{}, Tokens: map[translate.TokenKey]string{}}
	for _, k := range translate.Tokens(pod) {
		in.Tokens[k] = fmt.Sprintf("token for %q of %d s", k.Audience, k.Seconds)
	}
	claims, volumes := map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}
	for _, doc := range bytes.Split(objects, []byte("---\n")) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatal(err)
		}
		var into any
		cm, secret, svc := &corev1.ConfigMap{}, &corev1.Secret{}, &corev1.Service{}
		pvc, pv := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
		switch kind.Kind {
		case "ConfigMap":
			into = cm
		case "Secret":
			into = secret
		case "Service":
			into = svc
		case "PersistentVolumeClaim":
			into = pvc
		case "PersistentVolume":
			into = pv
		default:
			continue
		}
		if err := yaml.UnmarshalStrict(doc, into); err != nil {
			t.Fatal(err)
		}
		switch kind.Kind {
		case "ConfigMap":
			in.ConfigMaps[cm.Name] = cm
		case "Secret":
			for k, v := range secret.StringData {
				if secret.Data == nil {
					secret.Data = map[string][]byte{}
				}
				secret.Data[k] = []byte(v)
			}
			in.Secrets[secret.Name] = secret
		case "Service":
			in.Services = append(in.Services, svc)
		case "PersistentVolumeClaim":
			claims[pvc.Name] = pvc
		case "PersistentVolume":
			volumes[pv.Name] = pv
		}
	}
	in.Claims = map[string]translate.Claim{}
	for i := range pod.Spec.Volumes {
		if name, ok := translate.ClaimName(pod, &pod.Spec.Volumes[i]); ok && claims[name] != nil {
			in.Claims[pod.Spec.Volumes[i].Name] = translate.Claim{Claim: claims[name], Volume: volumes[claims[name].Spec.VolumeName]}
		}
	}
	return in
}

// readable prints a request as JSON with the files' contents as text.
func readable(t *testing.T, req gondola.CreateRequest) []byte {
	t.Helper()
	type file struct {
		gondola.PayloadFile
		Data string `json:"data"`
	}
	var out struct {
		gondola.CreateRequest
		Gondola struct {
			Volumes     map[string][]file            `json:"volumes,omitempty"`
			Env         map[string]map[string]string `json:"env,omitempty"`
			Credentials []gondola.RegistryCredential `json:"credentials,omitempty"`
		} `json:"payload"`
	}
	out.CreateRequest = req
	p := req.Gondola.Payload
	out.Gondola.Env, out.Gondola.Credentials, out.Gondola.Volumes = p.Env, p.Credentials, map[string][]file{}
	for name, files := range p.Volumes {
		for _, f := range files {
			out.Gondola.Volumes[name] = append(out.Gondola.Volumes[name], file{f, string(f.Data)})
		}
	}
	out.CreateRequest.Gondola = nil
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(raw, '\n')
}

func TestAvailable_LeavesOutWhatIsMissingAndNoMore(t *testing.T) {
	pod := parsePod(t, []byte(`
metadata: {name: web, namespace: shop}
spec:
  containers:
  - {name: a, env: [{name: WORD, valueFrom: {configMapKeyRef: {name: gone, key: word}}}]}
  - {name: b, envFrom: [{configMapRef: {name: empty}}]}
  volumes:
  - {name: gone, configMap: {name: gone}}
  - {name: here, configMap: {name: here}}
`))
	in := inputs(t, pod, []byte("kind: ConfigMap\nmetadata: {name: here}\ndata: {key: value}\n---\nkind: ConfigMap\nmetadata: {name: empty}\n"))
	p, err := translate.Available(pod, in)
	var missing *translate.MissingError
	if !errors.As(err, &missing) || missing.Volume != "gone" {
		t.Errorf("Available = %v, want that volume gone is missing something", err)
	}
	_, kept := p.Volumes["gone"]
	_, keptEnv := p.Env["a"]
	if env, cleared := p.Env["b"]; !p.Partial || kept || keptEnv || !cleared || len(env) > 0 || len(p.Volumes["here"]) != 1 {
		t.Errorf("payload = %+v, want volume here and the variables of b alone", p)
	}
	in.ConfigMaps["gone"] = &corev1.ConfigMap{Data: map[string]string{"word": "w"}}
	if p, err = translate.Available(pod, in); err != nil || p.Partial || len(p.Volumes) != 2 || p.Env["a"]["WORD"] != "w" {
		t.Errorf("with everything there: %+v, %v", p, err)
	}
}
