package gondola

// Rootfs shapes the root file systems of a Machine's containers.
type Rootfs struct {
	Persist any `json:"persist,omitempty"` // "never", "restart" or "always" (see Persistence), or protobuf's 0 to 3
	SizeGB  int `json:"size_gb,omitempty"`
}

// Persistence says for how long a container finds what it has written to its root file system.
type Persistence string

const (
	PersistNever   Persistence = "never"   // for one run: it begins with its image at every start
	PersistRestart Persistence = "restart" // over restarts of the container, its sandbox and its Machine, until that stops or is updated
	PersistAlways  Persistence = "always"  // over stop and start as well, until the Machine is updated to another image or destroyed
)

// Persistence is what config.rootfs.persist says, or else the deprecated config.guest.persist_rootfs; PersistNever where neither says anything.
// The error is an ErrInvalid: one of them is none, or they differ. A Config that Validate has passed has none.
func (c *Config) Persistence() (Persistence, error) {
	var rootfs, guest any
	if c.Rootfs != nil {
		rootfs = c.Rootfs.Persist
	}
	if c.Guest != nil {
		guest = c.Guest.PersistRootfs
	}
	p, err := parsePersistence("config.rootfs.persist", rootfs)
	if err != nil {
		return PersistNever, err
	}
	old, err := parsePersistence("config.guest.persist_rootfs", guest)
	switch {
	case err != nil:
		return PersistNever, err
	case p != "" && old != "" && p != old:
		return PersistNever, Errorf(ErrInvalid, "config.rootfs.persist is %s and config.guest.persist_rootfs %s: use the first alone", p, old)
	case p != "":
		return p, nil
	case old != "":
		return old, nil
	}
	return PersistNever, nil
}

// parsePersistence reads a word, or protobuf's number for one (trap 12); nothing said is empty.
func parsePersistence(field string, v any) (Persistence, error) {
	switch v { // JSON has but floats
	case nil, "", 0, 0.0:
		return "", nil
	case "never", 1, 1.0:
		return PersistNever, nil
	case "always", 2, 2.0:
		return PersistAlways, nil
	case "restart", 3, 3.0:
		return PersistRestart, nil
	}
	return "", Errorf(ErrInvalid, "%s %v: use never, restart or always", field, v)
}
