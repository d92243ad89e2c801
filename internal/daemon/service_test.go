package daemon_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/daemon"
)

// unit is the unit file of a service with the arguments of `gondola up`.
func unit(t *testing.T, args ...string) string {
	t.Helper()
	command, err := daemon.ServiceCommand(args)
	if err != nil {
		t.Fatal(err)
	}
	text, err := daemon.ServiceUnit(command)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestServiceUnit_RunsUpAsItWasAskedFor(t *testing.T) {
	text := unit(t, "--data", `/srv/my "data" 100%`, "--region", "fra")
	for _, want := range []string{`ExecStart=/usr/local/bin/gondola up --data "/srv/my \"data\" 100%%" --region fra` + "\n", "Delegate=yes\n", "KillMode=process\n", "WantedBy=multi-user.target\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the unit has no line %q:\n%s", want, text)
		}
	}
	if _, err := daemon.ServiceCommand([]string{"--data", "a\nExecStartPre=/bin/evil"}); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("an argument with a line break gives %v, want ErrInvalid", err)
	}
}

func TestInstalledCommand_IsThatOfTheUnitLetterByLetter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gondola.service")
	if command, err := daemon.InstalledCommand(file); err != nil || command != "" {
		t.Errorf("command of no unit = %q, %v", command, err)
	}
	for _, text := range []string{unit(t), unit(t, "--data", `/srv/my "data" $5 100%`, "--listen", "192.0.2.10", "--no-kubernetes"),
		strings.Replace(unit(t), "gondola up", `gondola up --nodes-per-region 3 --data '/srv/by hand'`, 1)} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		command, err := daemon.InstalledCommand(file)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := daemon.ServiceUnit(command); err != nil || again != text {
			t.Errorf("the unit\n%s\nis after an upgrade (%v)\n%s", text, err, again)
		}
	}
	for name, text := range map[string]string{
		"another program": strings.Replace(unit(t), "/usr/local/bin/gondola", "/opt/gondola", 1),
		"another command": strings.Replace(unit(t), "gondola up", "gondola upside", 1),
		"several lines":   strings.Replace(unit(t), "gondola up", "gondola up \\\n  --no-kubernetes", 1),
		"no command":      "[Service]\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if command, err := daemon.InstalledCommand(file); !errors.Is(err, gondola.ErrConflict) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "service uninstall") {
			t.Errorf("%s: command %q, error %v, want ErrConflict that names the file and the way out", name, command, err)
		}
	}
}
