package test

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// outside puts a machine beside the host until the script ends, on a link of 203.0.113.0/24 and 2001:db8:113::/64: the host is .1, the other
// .2. The command client is gondola-hello there, elsewhere runs any other ($GONDOLA) there.
func (h *host) outside(ts *testscript.TestScript) {
	ip := func(args ...string) {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			ts.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	other := h.netns + "-out"
	ip("netns", "add", other)
	ts.Defer(func() { ip("netns", "delete", other) })
	ip("-n", h.netns, "link", "add", "wan0", "type", "veth", "peer", "name", "eth0", "netns", other)
	for ns, link := range map[string]string{h.netns: "wan0", other: "eth0"} {
		last := map[string]string{h.netns: "1", other: "2"}[ns]
		ip("-n", ns, "address", "add", "203.0.113."+last+"/24", "dev", link)
		ip("-n", ns, "address", "add", "2001:db8:113::"+last+"/64", "dev", link, "nodad")
		ip("-n", ns, "link", "set", link, "up")
	}
	root, err := filepath.Abs("..")
	ts.Check(err)
	enter := "#!/bin/sh\nexec nsenter --net=/run/netns/" + other + " "
	for name, command := range map[string]string{"client": filepath.Join(root, "bin", "gondola-hello"), "elsewhere": "env GONDOLA_DATA=/nonexistent"} {
		ts.Check(os.WriteFile(filepath.Join(h.bin, name), []byte(enter+command+" \"$@\"\n"), 0o755))
	}
	ts.Setenv("GONDOLA", program())
}
