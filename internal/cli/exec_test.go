package cli_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"gondola/internal/gondolatest"
)

func TestExec_CtrlCEndsATerminalThatPassesNoKeys(t *testing.T) {
	c, _ := newTerminal(t, gondolatest.Options{})
	c.ok("machine", "run", "--name", "web", "test/app")
	cmd := exec.Command("gondola", "exec", "-t", "web", "/program", "size")
	cmd.Env = append(os.Environ(), "GONDOLA_DATA="+c.data)
	keys, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	screen := bufio.NewScanner(keys)
	shown := ""
	for screen.Scan() {
		shown += screen.Text() + "\n"
		if strings.Contains(shown, "80x24") {
			keys.WriteString("\x03")
		}
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: interrupt" {
		t.Errorf("Ctrl-C at gondola exec -t: %v, the terminal shows\n%s", err, shown)
	}
}
