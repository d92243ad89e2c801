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
)

// The service of the host, as systemd knows it.
const (
	ServiceName = "gondola.service"
	ServiceExe  = "/usr/local/bin/gondola"
	serviceFile = "/etc/systemd/system/" + ServiceName
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
	Args []string // of `gondola up`
	Say  func(format string, args ...any)
}

// ServiceUnit returns the unit file of a service that runs ServiceExe with the arguments of `gondola up`.
func ServiceUnit(args []string) (string, error) {
	words := []string{ServiceExe, "up"}
	for _, a := range args {
		if strings.ContainsAny(a, "\n\x00") {
			return "", gondola.Errorf(gondola.ErrInvalid, "argument %q: no line breaks, please", a)
		}
		words = append(words, unitWord(a))
	}
	unit, err := template.New("unit").Parse(serviceUnit)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = unit.Execute(&b, strings.Join(words, " "))
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
	text, err := ServiceUnit(o.Args)
	if err != nil {
		return err
	}
	if err := installExe(); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	if err := writeFile(serviceFile, []byte(text), 0o644); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	o.Say("%s runs %s; starting it", ServiceName, ServiceExe)
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
	if _, err := os.Stat(serviceFile); errors.Is(err, os.ErrNotExist) {
		o.Say("nothing to do: there is no %s", serviceFile)
		return nil
	}
	if err := systemctl(ctx, "disable", "--quiet", "--now", ServiceName); err != nil {
		return err
	}
	if err := os.Remove(serviceFile); err != nil {
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
	return writeFile(ServiceExe, b, 0o755) // by a rename: the old one may be running
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s\nsee: journalctl -u gondola -n 20", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
