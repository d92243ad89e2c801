package gondola

import (
	"slices"
	"strings"
)

// CheckSysctls refuses settings of the kernel that a Machine cannot have for itself, by name: they would be the whole host's. Dots and slashes
// in names are taken alike.
func CheckSysctls(sysctls map[string]string) error {
	for name := range sysctls {
		dotted := strings.ReplaceAll(name, "/", ".")
		own := slices.ContainsFunc([]string{"net.", "kernel.shm", "kernel.msg", "fs.mqueue."}, func(prefix string) bool { return strings.HasPrefix(dotted, prefix) })
		if !own && dotted != "kernel.sem" {
			return Errorf(ErrInvalid, "sysctl %s is the whole host's: a machine can set net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*", name)
		}
	}
	return nil
}
