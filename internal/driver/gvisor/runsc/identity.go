package runsc

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// pauseName stands for the sandbox's root among the containers; no container can be called so.
const pauseName = "/pause"

// id returns runsc's id of a container. Ids are hashes because runsc finds them by prefix (equal lengths cannot be ambiguous), and unique on a
// host because a control socket whose path would be too long gets a name of the id alone.
func (r *Runtime) id(name string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", r.spec.Instance, r.spec.Machine, name))
	return hex.EncodeToString(sum[:8])
}
