package fake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gondola"
	"gondola/internal/worker"
)

// defaultDisk is the room for Volumes of a host that says nothing.
const defaultDisk = 1 << 40

// volumeDir is where a Volume or snapshot has its files: data, and in size how large it is.
func (h *Host) volumeDir(id string) string { return filepath.Join(h.cfg.Dir, "volumes", id) }

func (h *Host) volumeSize(id string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(h.volumeDir(id), "size"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, gondola.Errorf(gondola.ErrNotFound, "there is no %s on this host", id)
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(b), 10, 64)
}

func (h *Host) setVolumeSize(id string, bytes int64) error {
	return os.WriteFile(filepath.Join(h.volumeDir(id), "size"), []byte(strconv.FormatInt(bytes, 10)), 0o600)
}

// DiskRoom implements worker.VolumeHost.
func (h *Host) DiskRoom() (free, total int64, err error) {
	total = h.cfg.Disk
	if total == 0 {
		total = defaultDisk
	}
	free = total
	entries, err := os.ReadDir(filepath.Join(h.cfg.Dir, "volumes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	for _, e := range entries {
		if n, err := h.volumeSize(e.Name()); err == nil && gondola.IsVolumeID(e.Name()) {
			free -= n
		}
	}
	return max(free, 0), total, nil
}

// CreateVolume implements worker.VolumeHost.
func (h *Host) CreateVolume(ctx context.Context, v worker.NewVolume) error {
	if err := h.failed(ctx, "CreateVolume", gondola.MachineID(v.ID)); err != nil {
		return err
	}
	id := string(v.ID)
	if _, err := h.volumeSize(id); err == nil {
		return nil
	}
	if free, total, err := h.DiskRoom(); err != nil || v.Bytes > free {
		return errors.Join(err, gondola.Errorf(gondola.ErrCapacity, "%d bytes wanted, %d free of %d", v.Bytes, free, total))
	}
	if v.Source == "" {
		if err := os.MkdirAll(filepath.Join(h.volumeDir(id), "data"), 0o700); err != nil {
			return err
		}
		if v.FSType == gondola.VolumeFSRaw {
			if err := os.WriteFile(h.rawFile(id), nil, 0o600); err != nil {
				return err
			}
		}
	} else if v.FSType != "" && v.FSType != h.fsType(v.Source) {
		return gondola.Errorf(gondola.ErrInvalid, "fstype %s: its source is %s", v.FSType, h.fsType(v.Source))
	} else if err := h.copyVolume(v.Source, id); err != nil {
		return err
	}
	return h.enlarge(id, v.Bytes)
}

// rawFile is the file that a raw Volume is; another has none.
func (h *Host) rawFile(id string) string { return filepath.Join(h.volumeDir(id), "data", ".raw") }

func (h *Host) fsType(id string) string {
	if _, err := os.Lstat(h.rawFile(id)); err == nil {
		return gondola.VolumeFSRaw
	}
	return gondola.VolumeFSType
}

// enlarge makes a Volume as large as bytes.
func (h *Host) enlarge(id string, bytes int64) error {
	if h.fsType(id) == gondola.VolumeFSRaw {
		if err := os.Truncate(h.rawFile(id), bytes); err != nil {
			return err
		}
	}
	return h.setVolumeSize(id, bytes)
}

func (h *Host) copyVolume(from, to string) error {
	if _, err := h.volumeSize(from); err != nil {
		return err
	}
	if err := os.RemoveAll(h.volumeDir(to)); err != nil {
		return err
	}
	return copySparse(filepath.Join(h.volumeDir(from), "data"), filepath.Join(h.volumeDir(to), "data"))
}

// copySparse copies a tree of files and directories, and what is zero in a file as a hole.
func copySparse(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(at, 0o777)
		}
		src, err := os.Open(path)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
		if err != nil {
			return err
		}
		defer dst.Close()
		zero, buf, size := make([]byte, 1<<20), make([]byte, 1<<20), int64(0)
		for {
			n, err := src.Read(buf)
			if err == io.EOF {
				return dst.Truncate(size)
			}
			if err == nil && !bytes.Equal(buf[:n], zero[:n]) {
				_, err = dst.WriteAt(buf[:n], size)
			}
			if err != nil {
				return err
			}
			size += int64(n)
		}
	})
}

// MountVolume implements worker.VolumeHost.
func (h *Host) MountVolume(ctx context.Context, id gondola.VolumeID, _ gondola.VolumeMountExtension) (string, error) {
	if err := h.failed(ctx, "MountVolume", gondola.MachineID(id)); err != nil {
		return "", err
	}
	if _, err := h.volumeSize(string(id)); err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mounted[id] = true
	if h.fsType(string(id)) == gondola.VolumeFSRaw {
		return h.rawFile(string(id)), nil
	}
	return filepath.Join(h.volumeDir(string(id)), "data"), nil
}

// UnmountVolume implements worker.VolumeHost.
func (h *Host) UnmountVolume(ctx context.Context, id gondola.VolumeID) error {
	if err := h.failed(ctx, "UnmountVolume", gondola.MachineID(id)); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mounted, id)
	return nil
}

// Mounted returns the Volumes that are mounted.
func (h *Host) Mounted() (ids []gondola.VolumeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.mounted {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// ExtendVolume implements worker.VolumeHost.
func (h *Host) ExtendVolume(ctx context.Context, id gondola.VolumeID, bytes int64) (later bool, err error) {
	if err := h.failed(ctx, "ExtendVolume", gondola.MachineID(id)); err != nil {
		return false, err
	}
	have, err := h.volumeSize(string(id))
	if err != nil || have >= bytes {
		return false, err
	}
	return false, h.enlarge(string(id), bytes)
}

// VolumeUsage implements worker.VolumeHost.
func (h *Host) VolumeUsage(id gondola.VolumeID) (worker.VolumeUsage, error) {
	n, err := h.volumeSize(string(id))
	if err != nil {
		return worker.VolumeUsage{}, err
	}
	var used uint64
	err = filepath.WalkDir(filepath.Join(h.volumeDir(string(id)), "data"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				used += uint64(min(st.Size(), st.Sys().(*syscall.Stat_t).Blocks*512)) // a raw one has holes
			}
		}
		return nil
	})
	blocks, free := uint64(n)/4096, (uint64(n)-used)/4096
	return worker.VolumeUsage{BlockSize: 4096, Blocks: blocks, BlocksFree: free, BlocksAvail: free, TotalBytes: uint64(n), UsedBytes: used,
		FSType: h.fsType(string(id))}, err
}

// SnapshotVolume implements worker.VolumeHost.
func (h *Host) SnapshotVolume(ctx context.Context, id gondola.VolumeID, snapshot string) (taken, of int64, err error) {
	if err := h.failed(ctx, "SnapshotVolume", gondola.MachineID(id)); err != nil {
		return 0, 0, err
	}
	of, err = h.volumeSize(string(id))
	if err != nil {
		return 0, 0, err
	}
	if _, err := h.volumeSize(snapshot); err != nil {
		if err := h.copyVolume(string(id), snapshot); err != nil {
			return 0, 0, err
		}
		if err := h.setVolumeSize(snapshot, of); err != nil {
			return 0, 0, err
		}
	}
	u, err := h.VolumeUsage(gondola.VolumeID(snapshot))
	return int64(u.UsedBytes), of, err
}

// DeleteVolume implements worker.VolumeHost.
func (h *Host) DeleteVolume(ctx context.Context, id string) error {
	if err := h.failed(ctx, "DeleteVolume", gondola.MachineID(id)); err != nil {
		return err
	}
	if id == "" || strings.ContainsAny(id, "/.") {
		return gondola.Errorf(gondola.ErrInvalid, "volume id %q is none", id)
	}
	return os.RemoveAll(h.volumeDir(id))
}

// LeftoverVolumes implements worker.VolumeHost.
func (h *Host) LeftoverVolumes(context.Context) (ids []string, err error) {
	entries, err := os.ReadDir(filepath.Join(h.cfg.Dir, "volumes"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, err
}
