package image

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"gondola"
)

// BuiltinRegistry is the registry of images that come with the program; it is never looked for on a network.
const BuiltinRegistry = "gondola.local"

// reference is a parsed image reference.
type reference struct {
	asked string // as the user wrote it
	ref   name.Reference
}

// parseReference reads a reference by Docker's rules: "nginx" is docker.io/library/nginx:latest.
func parseReference(s string) (reference, error) {
	ref, err := name.ParseReference(strings.TrimSpace(s))
	if err != nil {
		return reference{}, gondola.Errorf(gondola.ErrImage, "%q is no image reference: write it as [registry/]name[:tag] or name@sha256:<64 hex digits>", s)
	}
	return reference{asked: s, ref: ref}, nil
}

// registry is the host as people write it: docker.io, not index.docker.io.
func (r reference) registry() string { return familiar(r.ref.Context().RegistryStr()) }

// name is the repository with its registry: docker.io/library/nginx.
func (r reference) name() string { return r.registry() + "/" + r.ref.Context().RepositoryStr() }

// canonical is the full reference, the key of the index.
func (r reference) canonical() string {
	if d, ok := r.ref.(name.Digest); ok {
		return r.name() + "@" + d.DigestStr()
	}
	return r.name() + ":" + r.ref.Identifier()
}

func (r reference) builtin() bool { return r.registry() == BuiltinRegistry }

func familiar(registry string) string {
	if registry == name.DefaultRegistry {
		return "docker.io"
	}
	return registry
}

// refFile is the name of the file that holds a canonical reference.
func refFile(canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	return hex.EncodeToString(sum[:16]) + ".json"
}
