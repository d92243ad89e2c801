package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"gondola"
	"gondola/internal/host"
	"gondola/internal/network"
	"gondola/internal/store"
)

// restoring is where a backup is unpacked before it becomes the data directory.
const restoring = "restore.tmp"

// RestoreOptions is what Restore needs to know.
type RestoreOptions struct {
	Config Config
	From   string // file that Backup wrote
	// Replace ends first what is left on this host of the installation that the backup is of: its data are gone, its Machines run on.
	Replace bool
	Say     func(format string, args ...any)
}

// Restore brings a backup back into an empty data directory. The next Up starts its Machines anew: same ids, names and addresses, restart
// counts one higher, as after a reboot. A backup that is damaged or cut short changes nothing; one that was interrupted can be done again.
func Restore(ctx context.Context, o RestoreOptions) error {
	c, err := o.Config.complete()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return gondola.Errorf(gondola.ErrForbidden, "gondola restore makes files that only root may read and needs root: sudo gondola restore")
	}
	f, err := os.Open(o.From)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer f.Close()
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	release, err := lock(c.Data, "restore")
	if err != nil {
		return err
	}
	defer release()
	if err := checkEmpty(c.Data); err != nil {
		return err
	}
	tmp := filepath.Join(c.Data, restoring)
	if err := os.RemoveAll(tmp); err != nil { // of a restore that was interrupted
		return err
	}
	m, err := unpackBackup(ctx, f, tmp)
	if err == nil {
		err = checkBackup(ctx, tmp, m)
	}
	if err == nil && host.Present(m.Instance) {
		err = o.replace(ctx, c, m.Instance)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("backup %s: %w; nothing was restored", o.From, err), emptyData(c.Data))
	}
	if err := moveIn(tmp, c.Data); err != nil {
		return fmt.Errorf("restore: %w; try again, or begin anew with: gondola down --purge", err)
	}
	o.Say("restored what gondola %s had at %s; start it with: gondola up", m.Version, m.TakenAt.Local().Format("2006-01-02 15:04:05"))
	return nil
}

// checkEmpty refuses a data directory that has something in it, but for what an interrupted restore left.
func checkEmpty(data string) error {
	if _, err := os.Stat(filepath.Join(data, instanceFile)); err == nil {
		return gondola.Errorf(gondola.ErrConflict, "%s has a gondola already: restore into another directory with --data, or remove this one first with: gondola down --purge", data)
	}
	if _, err := os.Stat(filepath.Join(data, restoring)); err == nil {
		return nil
	}
	_, err := isFresh(data)
	return err
}

// unpackBackup writes every file of a backup below dir and returns its manifest. The last entry has to be there.
func unpackBackup(ctx context.Context, r io.Reader, dir string) (m manifest, err error) {
	z, err := zstd.NewReader(r)
	if err != nil {
		return m, err
	}
	defer z.Close()
	t := tar.NewReader(z)
	h, err := t.Next()
	switch {
	case errors.Is(err, zstd.ErrMagicMismatch), err == nil && h.Name != backupManifest:
		return m, gondola.Errorf(gondola.ErrInvalid, "this is not a backup of gondola")
	case err != nil:
		return m, gondola.Errorf(gondola.ErrInvalid, "it is damaged or cut short: %v", err)
	}
	if err := json.NewDecoder(t).Decode(&m); err != nil {
		return m, gondola.Errorf(gondola.ErrInvalid, "its manifest is damaged: %v", err)
	}
	if m.Format > backupFormat {
		return m, gondola.Errorf(gondola.ErrUnsupported, "it has format %d, this gondola knows up to %d: install gondola %s or newer", m.Format, backupFormat, m.Version)
	}
	for {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		h, err := t.Next()
		if err != nil {
			return m, gondola.Errorf(gondola.ErrInvalid, "it is damaged or cut short: %v", err)
		}
		if h.Name == backupEnd {
			_, err := io.Copy(io.Discard, z) // the checksum of the compression is at its very end
			return m, err
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
			return m, gondola.Errorf(gondola.ErrInvalid, "it has an entry %q, which no backup has", h.Name)
		}
		if err := unpackFile(t, filepath.Join(dir, h.Name), h.FileInfo().Mode().Perm()); err != nil {
			return m, err
		}
	}
}

// unpackFile writes one file; blocks of zeros, of which a volume has many, become holes.
func unpackFile(r io.Reader, path string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	size, err := copySparse(f, r)
	if err == nil {
		err = f.Truncate(size)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// copySparse copies r to f, skipping blocks of zeros, and returns how long r was.
func copySparse(f *os.File, r io.Reader) (size int64, err error) {
	block, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(r, block)
		if n > 0 && !bytes.Equal(block[:n], zero[:n]) {
			if _, err := f.WriteAt(block[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

// replace ends what the installation has on this host now, if it was told to.
func (o *RestoreOptions) replace(ctx context.Context, c Config, instance string) error {
	if !o.Replace {
		return gondola.Errorf(gondola.ErrConflict, "the installation that it is of, %s, is on this host now: if its data directory is still there, remove it with "+
			"gondola down --purge and its --data; if only its Machines are left, end them and restore with --replace", instance)
	}
	p := &platform{Options: Options{Config: c}, instance: instance, log: slog.New(slog.DiscardHandler)}
	cfg, err := p.networkConfig()
	if err != nil {
		return err
	}
	o.Say("ending what is left of installation %s on this host", instance)
	return errors.Join(host.EndAll(ctx, instance), network.Purge(ctx, cfg))
}

// checkBackup looks at what was unpacked: it is of one installation, and every database is sound.
func checkBackup(ctx context.Context, dir string, m manifest) error {
	b, err := os.ReadFile(filepath.Join(dir, instanceFile))
	if err != nil || strings.TrimSpace(string(b)) != m.Instance {
		return gondola.Errorf(gondola.ErrInvalid, "its manifest speaks of installation %q, its files of %q", m.Instance, strings.TrimSpace(string(b)))
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".db") {
			return err
		}
		return store.Check(ctx, path)
	})
}

// moveIn makes what was unpacked the content of the data directory, the name of the installation last: until then it is none.
func moveIn(tmp, data string) error {
	machines, err := filepath.Glob(filepath.Join(tmp, "machines", "*"))
	if err != nil {
		return err
	}
	for _, m := range machines {
		if err := os.MkdirAll(filepath.Join(m, "run"), 0o700); err != nil { // as a reboot leaves it
			return err
		}
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == instanceFile {
			continue
		}
		to := filepath.Join(data, e.Name())
		if err := os.RemoveAll(to); err != nil { // of a restore that was interrupted here
			return err
		}
		if err := os.Rename(filepath.Join(tmp, e.Name()), to); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(tmp, instanceFile), filepath.Join(data, instanceFile)); err != nil {
		return err
	}
	return os.Remove(tmp)
}
