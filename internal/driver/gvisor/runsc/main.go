package runsc

import (
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// Called says whether this process was started to be runsc: by us as "… runsc …", or by runsc itself, which runs /proc/self/exe again as
// runsc-sandbox, runsc-gofer and a child that only unmounts. It must be asked before anything else looks at os.Args.
func Called() bool {
	if len(os.Args) > 0 && named() {
		return true
	}
	if len(os.Args) < 2 {
		return false
	}
	if os.Args[0] == "/proc/self/exe" {
		return os.Args[1] == "umount" || os.Args[1] == "boot" || os.Args[1] == "gofer"
	}
	return os.Args[1] == "runsc"
}

// named says whether argv[0] is runsc's: "runsc", "runsc-sandbox", "runsc[getUsernsFD]".
func named() bool {
	rest, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "runsc")
	return ok && (rest == "" || rest[0] == '-' || rest[0] == '[')
}

// Main is the program runsc: it reads os.Args and does not return. It has only the commands that gondola and those who look into a sandbox
// need, and none of the helper programs that upstream's main embeds (47 MB, for checkpoints to remote storage).
func Main() {
	if !named() && os.Args[0] != "/proc/self/exe" {
		os.Args = append([]string{"runsc"}, os.Args[2:]...)
	}
	tune()
	const user, debug, internal = "", "debug", "internal use only"
	cli.Run(nil, map[util.SubCommand]string{
		new(cmd.Checkpoint):  user,
		new(cmd.Create):      user,
		new(cmd.Delete):      user,
		new(cmd.Events):      user,
		new(cmd.Exec):        user,
		new(cmd.Kill):        user,
		new(cmd.List):        user,
		new(cmd.PS):          user,
		new(cmd.Pause):       user,
		new(cmd.PortForward): user,
		new(cmd.Restore):     user,
		new(cmd.Resume):      user,
		new(cmd.Run):         user,
		new(cmd.Start):       user,
		new(cmd.State):       user,
		new(cmd.Tar):         user,
		new(cmd.Update):      user,
		new(cmd.Wait):        user,

		new(cmd.Debug): debug,

		new(sentrycmd.Boot):   internal,
		new(cmd.Gofer):        internal,
		new(sentrycmd.Umount): internal,
	}, nil)
}
