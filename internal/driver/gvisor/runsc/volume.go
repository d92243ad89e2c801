package runsc

import (
	"fmt"

	"gondola/internal/driver/oci"
)

// annotations tell runsc which mounts the containers of a sandbox share. All of them carry the same.
//
// A volume in memory is a tmpfs inside the sandbox (see oci.PlaceVolumes). One that is a directory of the host the sandbox shows to each
// container as a file system of its own: files are shared, also as they change, and unix sockets connect by way of the host (--host-uds=all),
// but FIFOs and file locks do not reach the other containers.
func annotations(vs oci.Volumes) map[string]string {
	out := map[string]string{}
	hint := func(name, source, options string) {
		prefix := "dev.gvisor.spec.mount." + name + "."
		out[prefix+"source"] = source
		out[prefix+"type"] = "tmpfs"
		out[prefix+"share"] = "pod"
		out[prefix+"options"] = options
	}
	hint("shm", shmSource, "mode=1777")
	for _, v := range vs {
		if !v.Tmpfs {
			continue
		}
		options := v.Options()
		if v.SizeMB > 0 {
			options += fmt.Sprintf(",size=%dm", v.SizeMB)
		}
		hint(fmt.Sprintf("v%d", v.Index), v.Source, options)
	}
	return out
}

// shmSource names the /dev/shm that all containers of a Machine share, as they share their IPC namespace.
const shmSource = "/dev/shm"
