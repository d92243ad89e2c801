package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"gondola"
	"gondola/internal/durable"
)

// The service of the host, as systemd knows it.
const (
	ServiceName = "gondola.service"
	ServiceExe  = "/usr/local/bin/gondola"
	ServiceFile = "/etc/systemd/system/" + ServiceName
)

// serviceUnit is the service. systemd leaves everything but the daemon alone (KillMode, Delegate), so that neither a stop nor an upgrade
// ends a Machine; it hears when the daemon is ready (Type=notify).
const serviceUnit = `# Written by: gondola service install
[Unit]
Description=Gondola, Machines and Kubernetes on this host
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={{.}}
Restart=on-failure
RestartSec=2
TimeoutStartSec=5min
TimeoutStopSec=1min
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
LimitNPROC=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
`

// ServiceOptions is what the service commands need to know.
type ServiceOptions struct {
	Command string // of the unit: ServiceCommand or InstalledCommand
	Say     func(format string, args ...any)
}

// ServiceCommand returns the command of a service that runs ServiceExe with the arguments of `gondola up`, as a unit file has it.
func ServiceCommand(args []string) (string, error) {
	words := []string{ServiceExe, "up"}
	for _, a := range args {
		if strings.ContainsAny(a, "\n\x00") {
			return "", gondola.Errorf(gondola.ErrInvalid, "argument %q: no line breaks, please", a)
		}
		words = append(words, unitWord(a))
	}
	return strings.Join(words, " "), nil
}

// InstalledCommand returns the command of the service whose unit file this is, letter by letter, so that an upgrade keeps what an administrator
// has written there; empty if there is no such file. One that does not run `gondola up` of ServiceExe is ErrConflict.
func InstalledCommand(file string) (string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("service: %w", err)
	}
	var commands []string
	for line := range strings.Lines(string(b)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			commands = append(commands, command)
		}
	}
	if len(commands) != 1 || !strings.HasPrefix(commands[0]+" ", ServiceExe+" up ") || strings.HasSuffix(commands[0], `\`) {
		return "", gondola.Errorf(gondola.ErrConflict, "%s does not run `%s up …` by one line ExecStart=…, so its flags cannot be kept: give those that the service shall have, "+
			"or take it away first with: gondola service uninstall", file, ServiceExe)
	}
	return commands[0], nil
}

// ServiceUnit returns the unit file of a service with this command.
func ServiceUnit(command string) (string, error) {
	unit, err := template.New("unit").Parse(serviceUnit)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = unit.Execute(&b, command)
	return b.String(), err
}

// unitWord quotes a word of ExecStart as systemd.service(5) wants it.
func unitWord(s string) string {
	s = strings.NewReplacer(`%`, `%%`, `$`, `$$`, `\`, `\\`, `"`, `\"`).Replace(s)
	if strings.ContainsAny(s, " \t'\";") || s == "" {
		return `"` + s + `"`
	}
	return s
}

// InstallService makes this gondola a service of the host, started now and at every boot. Doing it again, with a newer binary or other
// arguments, replaces the daemon; Machines run on.
func InstallService(ctx context.Context, o ServiceOptions) error {
	if err := wantSystemd("install"); err != nil {
		return err
	}
	text, err := ServiceUnit(o.Command)
	if err != nil {
		return err
	}
	if err := installExe(); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	if err := durable.WriteFile(ServiceFile, []byte(text), 0o644); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	o.Say("%s runs %s; starting it", ServiceName, o.Command)
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--quiet", ServiceName}, {"restart", ServiceName}} {
		if err := systemctl(ctx, args...); err != nil {
			return err
		}
	}
	o.Say("running, now and after every boot. See it with: systemctl status gondola; its log with: journalctl -u gondola")
	return nil
}

// UninstallService ends the service and takes it off the host. Machines run on and the data stay. It is no error if there is none.
func UninstallService(ctx context.Context, o ServiceOptions) error {
	if err := wantSystemd("uninstall"); err != nil {
		return err
	}
	if _, err := os.Stat(ServiceFile); errors.Is(err, os.ErrNotExist) {
		o.Say("nothing to do: there is no %s", ServiceFile)
		return nil
	}
	if err := systemctl(ctx, "disable", "--quiet", "--now", ServiceName); err != nil {
		return err
	}
	if err := os.Remove(ServiceFile); err != nil {
		return err
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	o.Say("the service is gone; Machines run on. Take them back with: gondola up; or remove everything with: gondola down --purge")
	return nil
}

func wantSystemd(verb string) error {
	if os.Geteuid() != 0 {
		return gondola.Errorf(gondola.ErrForbidden, "gondola service %s changes what this host runs and needs root: sudo gondola service %[1]s", verb)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return gondola.Errorf(gondola.ErrUnsupported, "this host is not run by systemd: see the unit with `gondola service install --print` and "+
			"have your own init run the command in it")
	}
	return nil
}

// installExe puts this program where the service runs it, so that what was started from somewhere may be removed there.
func installExe() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if a, err := os.Stat(exe); err == nil {
		if b, err := os.Stat(ServiceExe); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(ServiceExe), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(ServiceExe, b, 0o755) // by a rename: the old one may be running
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s\nsee: journalctl -u gondola -n 20", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
