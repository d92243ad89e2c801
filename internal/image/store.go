// Package image keeps the images of a host: it resolves references (by Docker Hub's rules of names), pulls from OCI registries, imports
// archives, and unpacks each image once into a tree that all its Machines share read-only.
//
// What the Store promises: a blob is known by its digest and checked while it is written and again while it is unpacked, so a half-pulled
// or damaged one is never used; a tree is there completely or not at all, whatever crashed; callers that want the same image at the same
// time share one pull. It knows nothing of Machines: who uses which image is said by the caller of Prune.
//
// Layout below Config.Dir:
//
//	blobs/sha256/<hex>     manifests, configs and layers, as the registry sent them
//	trees/<hex>/rootfs     the unpacked image, named by the digest of its manifest; trees/<hex>/complete stands beside it when it is whole
//	refs/<hash>.json       one reference and the digest it stands for; its modification time is the last use
//	tmp/                   what is being written; emptied by Open
package image

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Config says where a Store is and how registries are reached. Only Dir is needed.
type Config struct {
	Dir        string
	Registries map[string]Registry // registry host ("docker.io", "registry.example.com:5000") → how it is reached
	Progress   func(Progress)      // If set, called now and then during a pull, from several goroutines.
	Silence    time.Duration       // how long a registry may send nothing in the midst of an answer; if zero, 2 min
	Log        *slog.Logger        // If nil, slog.Default().
}

// Registry says how one registry is reached. Those on localhost and 127.0.0.0/8 speak plain http unless https answers, all others https.
type Registry struct {
	Mirror    string `json:"mirror,omitempty"`     // host, host/path or URL that is asked first (see CheckMirror); the registry itself is asked when it has not or does not answer
	PlainHTTP bool   `json:"plain_http,omitempty"` // http when https does not answer
	Insecure  bool   `json:"insecure,omitempty"`   // take any certificate
}

// Progress is how far a pull is.
type Progress struct {
	Reference   string
	Done, Total int64 // bytes of layers; those that were here before count as done
}

// Image is an unpacked image.
type Image struct {
	Reference string // as asked for
	ID        string // "name@sha256:…"; the digest is the one the reference stands for, so that of the index where there is one
	Digest    string // "sha256:…" of the manifest for this host's platform: the name of the tree
	Tree      string // directory, not to be written to
	SizeBytes int64  // of the files in the tree

	Entrypoint, Cmd, Env []string
	WorkingDir, User     string
	StopSignal           string

	Config []byte // the OCI config that says all this, as the registry has it
}

// Policy says when a registry is asked.
type Policy string

// The policies of Kubernetes' imagePullPolicy; the empty one is IfNotPresent.
const (
	Always       Policy = "always" // ask what the reference stands for each time; layers that are here are not fetched again
	IfNotPresent Policy = "if_not_present"
	Never        Policy = "never"
)

// Store is the images of one host. Its methods may be called at the same time; a directory has one Store at a time.
type Store struct {
	dir        string
	registries map[string]Registry
	progress   func(Progress)
	log        *slog.Logger
	platform   v1.Platform
	strict     http.RoundTripper // verifies certificates
	lax        http.RoundTripper // for Registry.Insecure

	ensures flight // by reference, policy and credentials
	fills   flight // by digest of the manifest: download and unpack

	mu    sync.Mutex
	hello []byte               // program of the demo image, nil before AddHello
	pins  map[string]int       // digest → pulls that need it, which Prune leaves alone
	used  map[string]time.Time // digest of a manifest → when Ensure last gave it out: its Machine may not be on record yet
}

// Open makes cfg.Dir a Store, removing what a crash left half-done.
func Open(cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Silence == 0 {
		cfg.Silence = 2 * time.Minute
	}
	s := &Store{
		dir: cfg.Dir, progress: cfg.Progress, log: cfg.Log, registries: cfg.Registries,
		platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		strict:   newTransport(false, cfg.Silence), lax: newTransport(true, cfg.Silence),
		pins: map[string]int{}, used: map[string]time.Time{},
	}
	if err := os.RemoveAll(s.path("tmp")); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	// Trees hold setuid programs of strangers: no other user of the host gets at them.
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	for _, d := range []string{"blobs/sha256", "trees", "refs", "tmp"} {
		if err := os.MkdirAll(s.path(d), 0o755); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}
