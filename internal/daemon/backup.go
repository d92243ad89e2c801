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
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"gondola"
	"gondola/internal/durable"
	"gondola/internal/store"
)

// backupFormat is what this gondola writes and reads: a tar, compressed by zstd, whose first entry is the manifest and whose last one says
// that it is whole.
const (
	backupFormat   = 1
	backupManifest = "gondola-backup.json"
	backupEnd      = "gondola-backup.end"
)

// manifest is the first entry of a backup.
type manifest struct {
	Format   int       `json:"format"`
	Version  string    `json:"version"`  // of the gondola that wrote it
	Instance string    `json:"instance"` // whose it is
	TakenAt  time.Time `json:"taken_at"`
}

// BackupOptions is what Backup needs to know.
type BackupOptions struct {
	Config  Config
	Version string
	To      string // file; it must not exist
	// Volumes takes snapshots; it is asked only if there are volumes. If nil, their data is left out.
	Volumes gondola.Volumes
	Say     func(format string, args ...any)
}

// Backup writes what makes up the installation to one file, while it runs or not: the databases of platform and cluster as of one moment
// each, keys and certificates, the images as they were pulled, the journals of Machines, and volumes. Not in it: what lives no longer than
// a Machine's sandbox (root file systems, emptyDirs, logs).
//
// The cluster's database is copied first: a Machine that its copy does not know of is collected after a restore.
func Backup(ctx context.Context, o BackupOptions) (err error) {
	c, err := o.Config.complete()
	if err != nil {
		return err
	}
	instance, err := readInstance(c.Data)
	if errors.Is(err, os.ErrNotExist) {
		return gondola.Errorf(gondola.ErrNotFound, "there is no gondola in %s: choose the data directory with --data", c.Data)
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(o.To, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // it holds every secret
	if errors.Is(err, os.ErrExist) {
		return gondola.Errorf(gondola.ErrConflict, "%s is there already: choose another file, or remove it first", o.To)
	}
	if err != nil {
		return err
	}
	b := &backup{data: c.Data, say: o.Say}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(o.To))
		}
	}()
	m := manifest{Format: backupFormat, Version: o.Version, Instance: instance, TakenAt: time.Now().UTC()}
	if err := b.write(ctx, f, m, o.Volumes); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if left, _ := filepath.Glob(filepath.Join(c.Data, "volumes", "vol_*")); len(left) > 0 && o.Volumes == nil {
		o.Say("the data of %d volumes is not in it", len(left))
	}
	o.Say("%s: %d files, %.1f MB; keep it as you keep keys. Bring it back with: gondola restore %s", o.To, b.files, float64(size)/1e6, o.To)
	return nil
}

// backup is one that is being written.
type backup struct {
	data  string
	tmp   string // copies of databases
	tar   *tar.Writer
	files int
	say   func(format string, args ...any)
}

func (b *backup) write(ctx context.Context, w io.Writer, m manifest, volumes gondola.Volumes) (err error) {
	if b.tmp, err = os.MkdirTemp(b.data, "backup-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.tmp)) }()
	z, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	b.tar = tar.NewWriter(z)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := b.addBytes(backupManifest, text); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(b.data, secretsKey))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, part := range []string{"clusters", "worker", "server.db", secretsKey, "token", caFile, "images/refs", "images/blobs", "machines", instanceFile} {
		if err := b.addTree(ctx, part); err != nil {
			return err
		}
	}
	if now, err := os.ReadFile(filepath.Join(b.data, secretsKey)); err == nil && !bytes.Equal(now, key) {
		return gondola.Errorf(gondola.ErrConflict, "the key of secrets was renewed meanwhile, and what was copied may want the other one: begin the backup again")
	}
	if volumes != nil {
		if err := b.addVolumes(ctx, volumes); err != nil {
			return err
		}
	}
	if err := b.addBytes(backupEnd, nil); err != nil {
		return err
	}
	return errors.Join(b.tar.Close(), z.Close())
}

// addVolumes adds every volume as of a snapshot that is made for it, and the snapshots that there are. The databases are copied by then, so
// that they know nothing of those made here.
func (b *backup) addVolumes(ctx context.Context, volumes gondola.Volumes) error {
	kept, err := filepath.Glob(filepath.Join(b.data, "volumes", "vs_*"))
	if err != nil {
		return err
	}
	for _, dir := range kept {
		if err := b.addDisk(ctx, dir, dir); err != nil {
			return err
		}
	}
	if disks, err := filepath.Glob(filepath.Join(b.data, "volumes", "vol_*")); err != nil || len(disks) == 0 {
		return err
	}
	all, err := volumes.ListVolumes(ctx, "")
	if errors.Is(err, gondola.ErrUnavailable) {
		return gondola.Errorf(gondola.ErrUnavailable, "volumes can be copied only while gondola runs: start it with gondola up, or leave them out with --without-volumes")
	}
	if err != nil {
		return err
	}
	for _, v := range all {
		err := b.addVolume(ctx, volumes, gondola.VolumeRef{App: v.App, ID: v.ID})
		switch {
		case errors.Is(err, gondola.ErrNotFound): // destroyed since the list was read
		case errors.Is(err, gondola.ErrPrecondition): // it is being destroyed, or is not made yet: there is nothing to bring back
			b.say("volume %s is left out: %v", v.ID, err)
		case err != nil:
			return fmt.Errorf("back up volume %s (leave volumes out with --without-volumes): %w", v.ID, err)
		}
	}
	return nil
}

func (b *backup) addVolume(ctx context.Context, volumes gondola.Volumes, ref gondola.VolumeRef) (err error) {
	s, err := volumes.SnapshotVolume(ctx, ref, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, volumes.DeleteSnapshot(context.WithoutCancel(ctx), ref, s.ID)) }()
	dir := filepath.Join(b.data, "volumes")
	return b.addDisk(ctx, filepath.Join(dir, s.ID), filepath.Join(dir, string(ref.ID)))
}

// addDisk adds what is in the directory of a snapshot as that of a volume or snapshot.
func (b *backup) addDisk(ctx context.Context, from, as string) error {
	name, err := filepath.Rel(b.data, as)
	if err != nil {
		return err
	}
	for _, file := range []string{"disk", "meta"} {
		if err := b.addFile(ctx, filepath.Join(from, file), filepath.Join(name, file)); err != nil {
			return err
		}
	}
	return nil
}

// addTree adds the files below a part of the data directory that belong into a backup.
func (b *backup) addTree(ctx context.Context, part string) error {
	err := filepath.WalkDir(filepath.Join(b.data, part), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // ended meanwhile, or never there
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(b.data, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(name, "machines/") && strings.Count(name, "/") > 1 {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !belongs(name) {
			return nil
		}
		return b.addFile(ctx, path, name)
	})
	if err != nil {
		return fmt.Errorf("back up %s: %w", part, err)
	}
	return nil
}

// belongs says whether a file is part of a backup: not the logs of databases, whose content their copies have, nor what a Machine's sandbox
// leaves.
func belongs(name string) bool {
	if strings.HasPrefix(name, "machines/") {
		base := filepath.Base(name)
		return base == "journal" || base == "worker"
	}
	return !strings.HasSuffix(name, "-wal") && !strings.HasSuffix(name, "-shm") && !strings.HasSuffix(name, durable.Unfinished)
}

// addFile adds one file; a database by a copy as of one moment.
func (b *backup) addFile(ctx context.Context, path, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if strings.HasSuffix(name, ".db") {
		copied := filepath.Join(b.tmp, strings.ReplaceAll(name, "/", "-"))
		if err := store.Copy(ctx, path, copied); err != nil {
			return err
		}
		path = copied
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Size: fi.Size(), Mode: int64(fi.Mode().Perm()), ModTime: fi.ModTime(), Format: tar.FormatPAX}
	if err := b.tar.WriteHeader(h); err != nil {
		return err
	}
	b.files++
	_, err = io.CopyN(b.tar, f, fi.Size()) // a journal may grow meanwhile; its end is cut to whole lines when it is read
	return err
}

func (b *backup) addBytes(name string, data []byte) error {
	if err := b.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600, ModTime: time.Now(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := b.tar.Write(data)
	return err
}
