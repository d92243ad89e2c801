package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"gondola/client"
)

// platform is `gondola up` in this namespace.
type platform struct {
	program, dir, data string
	config             string // further lines of the config file
	up                 *exec.Cmd
	exited             chan error
	api                *client.Client
	kube               *kubernetes.Clientset
}

func newPlatform(bin, dir string) *platform {
	return &platform{program: filepath.Join(bin, "gondola"), dir: dir, data: filepath.Join(dir, "data")}
}

// startTimes say how long after its start `gondola up` did something for its user.
type startTimes struct {
	answered time.Duration // a GET with the kubeconfig that it merges was answered
	ready    time.Duration // it said so
}

// start runs `gondola up` and returns when it is ready.
func (p *platform) start(ctx context.Context) (startTimes, error) {
	var t startTimes
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	file := filepath.Join(p.dir, "config.yaml")
	// What is measured is the platform, not how often it may be asked.
	if err := os.WriteFile(file, []byte("rateLimits: {unlimited: true}\n"+p.config), 0o600); err != nil {
		return t, err
	}
	p.up = exec.Command(p.program, "up", "--allow-driver", "runc", "--config", file)
	p.up.Env = environment(p.dir)
	p.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ends when we say so, not on Ctrl-C
	out, err := p.up.StderrPipe()
	if err != nil {
		return t, err
	}
	began := time.Now()
	if err := p.up.Start(); err != nil {
		return t, err
	}
	p.exited = make(chan error, 1)
	ready := make(chan time.Duration, 1)
	go func() {
		said := readUntilReady(out, func() { ready <- time.Since(began) })
		err := p.up.Wait()
		p.exited <- fmt.Errorf("gondola up ended: %w\n%s", errors.Join(err, errors.New("see above")), said)
	}()
	for t.answered == 0 || t.ready == 0 {
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("gondola up is not ready: %w", ctx.Err())
		case err := <-p.exited:
			p.up = nil
			return t, err
		case t.ready = <-ready:
		case <-time.After(10 * time.Millisecond):
			if t.answered == 0 && p.answers(ctx) {
				t.answered = time.Since(began)
			}
		}
	}
	return t, p.connect()
}

// readUntilReady calls ready when the daemon says that it is, reads on to the end and returns all that it said.
func readUntilReady(r io.Reader, ready func()) string {
	var said strings.Builder
	s := bufio.NewScanner(r)
	for s.Scan() {
		said.WriteString(s.Text() + "\n")
		if strings.HasPrefix(s.Text(), "ready in") {
			ready()
		}
	}
	return said.String()
}

// answers says whether the API server answers a GET to the kubeconfig that kubectl would read.
func (p *platform) answers(ctx context.Context) bool {
	kube, err := p.clientset(100)
	if err != nil {
		return false // not written yet
	}
	_, err = kube.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
	return err == nil
}

func (p *platform) clientset(qps float32) (*kubernetes.Clientset, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(p.dir, "kubeconfig"))
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = qps, int(qps) // the client's own limit must not be what is measured
	return kubernetes.NewForConfig(cfg)
}

// connect makes the clients of both APIs.
func (p *platform) connect() error {
	running, err := client.Local(p.data)
	if err != nil {
		return err
	}
	token, err := running.Token()
	if err != nil {
		return err
	}
	if p.api, err = client.New(client.Config{URL: running.API, Token: token}); err != nil {
		return err
	}
	p.kube, err = p.clientset(1000)
	return err
}

// instance is the name that everything of this installation carries.
func (p *platform) instance() (string, error) {
	b, err := os.ReadFile(filepath.Join(p.data, "instance"))
	return strings.TrimSpace(string(b)), err
}

// pilot is the program that runs beside every Machine, and runsc when it is called as such.
func (p *platform) pilot() (string, error) {
	found, err := filepath.Glob(filepath.Join(p.data, "bin", "gondola-pilot-*"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("want one pilot in %s, found %d", filepath.Join(p.data, "bin"), len(found))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// stop ends `gondola up` as Ctrl-C does; Machines run on.
func (p *platform) stop() error {
	if p.up == nil {
		return nil
	}
	defer func() { p.up = nil }()
	_ = p.up.Process.Signal(os.Interrupt)
	select {
	case <-p.exited:
		return nil
	case <-time.After(30 * time.Second):
		_ = p.up.Process.Kill()
		<-p.exited
		return errors.New("gondola up does not end on Ctrl-C")
	}
}

// lastLog returns the last lines of the daemon's log, for an error message.
func (p *platform) lastLog(lines int) string {
	b, err := os.ReadFile(filepath.Join(p.data, "gondola.log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// wait waits for d, or for the end of ctx.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
