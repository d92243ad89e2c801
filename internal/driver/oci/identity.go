package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"gondola/internal/pilot"
)

// PauseName stands for the sandbox's root among the containers; no container can be called so.
const PauseName = "/pause"

// ID returns a runtime's id of a container. Ids are hashes because runsc finds them by prefix (equal lengths cannot be ambiguous), and unique on
// a host because a control socket whose path would be too long gets a name of the id alone.
func ID(spec pilot.Spec, name string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", spec.Instance, spec.Machine, name))
	return hex.EncodeToString(sum[:8])
}
