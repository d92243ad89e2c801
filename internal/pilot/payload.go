package pilot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gondola"
	"gondola/internal/failpoint"
)

// WritePayload puts a payload into runDir, where a pilot finds it at its start. Only root can read it.
func WritePayload(runDir string, p gondola.Payload) error {
	p.Credentials = nil // for pulling images, none of the pilot's business
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write payload: %w", err)
	}
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return fmt.Errorf("write payload: %w", err)
	}
	if err := writeFileAtomic(filepath.Join(runDir, "payload.json"), data, 0o600, false); err != nil {
		return fmt.Errorf("write payload: %w", err)
	}
	return nil
}

// readPayload reads what WritePayload wrote; the zero Payload if nothing.
func readPayload(runDir string) (p gondola.Payload, err error) {
	data, err := os.ReadFile(filepath.Join(runDir, "payload.json"))
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read payload: %w", err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, errors.New("read payload: payload.json is damaged") // the parser's error may quote a secret
	}
	return p, nil
}

// checkPayload refuses a payload whose files would not fit into their volumes.
func checkPayload(p gondola.Payload) error {
	for volume, files := range p.Volumes {
		if !filepath.IsLocal(volume) || strings.Contains(volume, "/") {
			return gondola.Errorf(gondola.ErrInvalid, "payload: %q cannot be the name of a volume", volume)
		}
		for _, f := range files {
			clean := path.Clean(f.Path)
			if f.Path == "" || clean == "." || !filepath.IsLocal(clean) || strings.HasPrefix(clean, "..") {
				return gondola.Errorf(gondola.ErrInvalid, "payload: path %q of volume %s must be relative and stay inside it", f.Path, volume)
			}
		}
	}
	return nil
}

// writeVolumes writes the payload volumes of spec below RunDir/payload.
func writeVolumes(spec Spec, p gondola.Payload) error {
	if err := checkPayload(p); err != nil {
		return err
	}
	for _, v := range spec.Volumes {
		if v.Kind != VolumePayload {
			continue
		}
		dir := filepath.Join(spec.RunDir, "payload", v.Name)
		if err := swapVolume(dir, p.Volumes[v.Name]); err != nil {
			return fmt.Errorf("write volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// swapVolume makes dir show exactly files, all at once: they lie in a directory of their own, "..data" is a link to it that is replaced by a
// rename, and what users see are links through "..data". This is the layout of a kubelet's volumes, which programs that watch "..data"
// rely on.
func swapVolume(dir string, files []gondola.PayloadFile) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	shown, _ := root.Readlink("..data")
	if shown == "" || !sameFiles(root, shown, files) {
		if shown, err = showFiles(root, files); err != nil {
			return err
		}
	}
	// These too where nothing else has changed: an earlier pilot may have died before it made them.
	wanted := map[string]bool{}
	for _, f := range files {
		top, _, _ := strings.Cut(path.Clean(f.Path), "/")
		if wanted[top] {
			continue
		}
		wanted[top] = true
		if err := root.Symlink("..data/"+top, top); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	failpoint.Hit("pilot.payload.linked")
	return sweep(root, shown, wanted)
}

// showFiles writes files into a directory of their own, makes "..data" a link to it and returns its name.
func showFiles(root *os.Root, files []gondola.PayloadFile) (name string, err error) {
	name = ".." + time.Now().UTC().Format("2006_01_02_15_04_05.") + strconv.FormatInt(time.Now().UnixNano()%1e9, 10)
	if err := writeFiles(root, name, files); err != nil {
		root.RemoveAll(name)
		return "", err
	}
	failpoint.Hit("pilot.payload.written")
	root.Remove("..data_tmp")
	if err := root.Symlink(name, "..data_tmp"); err != nil {
		return "", err
	}
	if err := root.Rename("..data_tmp", "..data"); err != nil {
		return "", err
	}
	failpoint.Hit("pilot.payload.swapped")
	return name, nil
}

// writeFiles writes files below the directory name.
func writeFiles(root *os.Root, name string, files []gondola.PayloadFile) error {
	if err := root.Mkdir(name, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		p := path.Join(name, path.Clean(f.Path))
		if err := root.MkdirAll(path.Dir(p), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(f.Mode).Perm()
		if f.Mode == 0 {
			mode = 0o644
		}
		if err := root.WriteFile(p, f.Data, 0o600); err != nil {
			return err
		}
		if f.User != 0 || f.Group != 0 {
			if err := root.Chown(p, f.User, f.Group); err != nil {
				return err
			}
		}
		if err := root.Chmod(p, mode); err != nil {
			return err
		}
	}
	return nil
}

// sameFiles says whether the directory name holds just these files with these contents and modes.
func sameFiles(root *os.Root, name string, files []gondola.PayloadFile) bool {
	for _, f := range files {
		p := path.Join(name, path.Clean(f.Path))
		info, err := root.Stat(p)
		if err != nil || info.Size() != int64(len(f.Data)) || f.Mode != 0 && info.Mode().Perm() != os.FileMode(f.Mode).Perm() {
			return false
		}
		data, err := root.ReadFile(p)
		if err != nil || !bytes.Equal(data, f.Data) {
			return false
		}
	}
	n := 0
	err := fs.WalkDir(root.FS(), name, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	return err == nil && n == len(files)
}

// sweep removes what no longer belongs to the volume.
func sweep(root *os.Root, fresh string, wanted map[string]bool) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, n := range names {
		if n == "..data" || n == fresh || wanted[n] {
			continue
		}
		if err := root.RemoveAll(n); err != nil {
			return err
		}
	}
	return nil
}
