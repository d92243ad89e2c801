package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// registryAddress is where the images are served, inside the namespace.
const registryAddress = "127.0.0.1:5000"

// host is a simulated machine: a network namespace with `gondola up` in it. Its name comes from its folder, so that what a killed run has left is
// found and taken away by the next one.
type host struct {
	dir, netns string
	built      string // the gondola that is tested
	gondola    string // a copy of it, which builds meanwhile do not touch
	instance   string // the installation's name, in all that it has outside its folder
	args       []string
	up         *exec.Cmd
	ups        int // how often it was started
	exited     chan error
}

func newHost(dir, gondola string) *host {
	sum := fnv.New32a()
	_, _ = io.WriteString(sum, dir)
	return &host{dir: dir, built: gondola, gondola: filepath.Join(dir, "bin", "gondola"), netns: fmt.Sprintf("gdconf-%08x", sum.Sum32())}
}

func (h *host) kubeconfig() string { return filepath.Join(h.dir, "home", "kubeconfig") }

// command runs a program inside the namespace, with the environment of a user of it.
func (h *host) command(name string, args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.netns, name}, args...)...)
	c.Env = append(os.Environ(), "GONDOLA_DATA="+filepath.Join(h.dir, "data"), "HOME="+filepath.Join(h.dir, "home"), "KUBECONFIG="+h.kubeconfig(), "SUDO_USER=",
		"PATH="+filepath.Join(h.dir, "bin")+":"+os.Getenv("PATH"), "KUBE_TEST_REPO_LIST="+filepath.Join(h.dir, "repositories.yaml"))
	return c
}

// start makes the namespace, serves the images in it and starts `gondola up`.
func (h *host) start(ctx context.Context, images map[string]v1.Image, args []string) error {
	if err := h.remove(); err != nil {
		return err
	}
	for _, d := range []string{"home", "bin"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(h.built)
	if err != nil {
		return fmt.Errorf("%w: make build makes it", err)
	}
	if err := os.WriteFile(h.gondola, program, 0o755); err != nil {
		return err
	}
	for file, text := range map[string]string{"bin/kubectl": "#!/bin/sh\nexec " + h.gondola + " kubectl \"$@\"\n", "repositories.yaml": repositories(registryAddress)} {
		if err := os.WriteFile(filepath.Join(h.dir, file), []byte(text), 0o755); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"netns", "add", h.netns}, {"-n", h.netns, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	if err := h.serveImages(images); err != nil {
		return err
	}
	h.args = args
	if err := h.launch(ctx); err != nil {
		return err
	}
	return h.attach()
}

// attach learns which installation there is.
func (h *host) attach() error {
	instance, err := os.ReadFile(filepath.Join(h.dir, "data", "instance"))
	h.instance = strings.TrimSpace(string(instance))
	return err
}

// launch runs `gondola up` and returns when it is ready.
func (h *host) launch(ctx context.Context) error {
	h.ups++
	log, err := os.Create(filepath.Join(h.dir, fmt.Sprintf("up%d.log", h.ups)))
	if err != nil {
		return err
	}
	defer log.Close()
	h.up = h.command(h.gondola, append([]string{"up", "--region", "aaa", "--region", "bbb"}, h.args...)...)
	h.up.Stdout, h.up.Stderr = log, log
	h.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.up.Start(); err != nil {
		return err
	}
	h.exited = make(chan error, 1)
	go func() { h.exited <- h.up.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		b, err := os.ReadFile(log.Name())
		if err == nil && strings.Contains(string(b), "ready in") {
			return nil
		}
		select {
		case err := <-h.exited:
			h.exited <- err
			return fmt.Errorf("gondola up ended: %w\n%s", err, b)
		case <-ctx.Done():
			return fmt.Errorf("gondola up: %w\n%s", ctx.Err(), b)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// serveImages runs a registry on registryAddress until this process ends.
func (h *host) serveImages(images map[string]v1.Image) error {
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if err := push(handler, images); err != nil {
		return err
	}
	_, err := h.serve(registryAddress, handler)
	return err
}

// serve answers at an address inside the namespace until this process ends, and returns the address.
func (h *host) serve(address string, handler http.Handler) (string, error) {
	var l net.Listener
	err := h.inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return "", err
	}
	go func() { _ = http.Serve(l, handler) }()
	return l.Addr().String(), nil
}

// inside calls f on a thread in the namespace, which ends after it.
func (h *host) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends a thread that is not as it was
		fd, err := unix.Open("/run/netns/"+h.netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		if err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", h.netns, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// relaunch kills `gondola up` in the middle of what it does and starts it again.
func (h *host) relaunch(ctx context.Context) (killed, ready time.Time, err error) {
	killed = time.Now()
	if err := h.up.Process.Kill(); err != nil {
		return killed, killed, err
	}
	<-h.exited
	err = h.launch(ctx)
	return killed, time.Now(), err
}

// stop ends `gondola up` as Ctrl-C does.
func (h *host) stop() error {
	if h.up == nil {
		return nil
	}
	defer func() { h.up = nil }()
	_ = h.up.Process.Signal(os.Interrupt)
	select {
	case <-h.exited:
		return nil
	case <-time.After(time.Minute):
		return errors.Join(fmt.Errorf("gondola up does not end on Ctrl-C"), h.up.Process.Kill())
	}
}

// remove takes everything away that is there, also what a run has left that was killed; only the folder's logs stay.
func (h *host) remove() error {
	if _, err := os.Stat("/run/netns/" + h.netns); err != nil {
		return os.RemoveAll(h.dir)
	}
	if err := h.purge(); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "netns", "delete", h.netns).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns delete %s: %w: %s", h.netns, err, out)
	}
	return os.RemoveAll(h.dir)
}

// purge undoes the installation.
func (h *host) purge() error {
	if _, err := os.Stat(filepath.Join(h.dir, "data")); err != nil {
		return nil
	}
	if out, err := h.command(h.built, "down", "--purge").CombinedOutput(); err != nil {
		return fmt.Errorf("gondola down --purge: %w: %s", err, out)
	}
	return nil
}

// takeDown ends and undoes the installation, and lists what it has left on the host all the same.
func (h *host) takeDown() (left []string, err error) {
	if err := errors.Join(h.stop(), h.purge()); err != nil {
		return nil, err
	}
	after, err := h.inventory()
	return after.beyond(nil), errors.Join(err, h.remove())
}
