package pilot

import (
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gondola"
)

// withSecrets adds the App's secrets to the environment of a container: all of them where it gets all, and those that it names. They win over
// variables of the same name, as on Fly.io. missing is one that is named and not there.
func withSecrets(c *Container, env []string, secrets map[string]string) (out []string, missing string) {
	if c.AppSecrets {
		for _, name := range slices.Sorted(maps.Keys(secrets)) {
			env = setEnv(env, name+"="+secrets[name])
		}
	}
	for _, ref := range c.Config.Secrets {
		value, ok := secrets[ref.Name]
		if !ok {
			missing = ref.Name
			continue
		}
		name := ref.EnvVar
		if name == "" {
			name = ref.Name
		}
		env = setEnv(env, name+"="+value)
	}
	return env, missing
}

func secretMissing(c *Container, name string) error {
	return gondola.Errorf(gondola.ErrPrecondition, "secret %s of container %s is not there: set it with gondola secrets set, then restart the Machine", name, c.Name)
}

// secretFiles writes the files whose contents are secrets of the App into RunDir, which is no disk, and returns the other files of the
// container and the mounts that show these. Those of earlier runs go.
func secretFiles(spec *Spec, c *Container, run int, secrets map[string]string) (others []gondola.File, shown []Mount, err error) {
	all := filepath.Join(spec.RunDir, "secrets", c.Name)
	if err := os.RemoveAll(all); err != nil {
		return nil, nil, fmt.Errorf("remove secrets of an earlier run: %w", err)
	}
	for i, f := range c.Config.Files {
		if f.SecretName == "" {
			others = append(others, f)
			continue
		}
		value, ok := secrets[f.SecretName]
		if !ok {
			return nil, nil, secretMissing(c, f.SecretName)
		}
		data, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return nil, nil, gondola.Errorf(gondola.ErrPrecondition, "secret %s of container %s is not base64, as the contents of file %s have to be", f.SecretName, c.Name, f.GuestPath)
		}
		source := filepath.Join(all, strconv.Itoa(run), strconv.Itoa(i))
		if err := writeSecret(source, f, data); err != nil {
			return nil, nil, fmt.Errorf("write file %s of container %s: %w", f.GuestPath, c.Name, err)
		}
		shown = append(shown, Mount{Source: source, Path: f.GuestPath, ReadOnly: true})
	}
	return others, shown, nil
}

func writeSecret(path string, f gondola.File, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	if g := f.Gondola; g != nil {
		if err := os.Chown(path, g.User, g.Group); err != nil {
			return err
		}
	}
	mode := os.FileMode(f.Mode).Perm()
	if f.Mode == 0 {
		mode = 0o644
	}
	return os.Chmod(path, mode)
}
