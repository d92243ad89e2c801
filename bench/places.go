package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// servers measures Debian's nginx, redis and PostgreSQL under the same load in a Pod on runc, in a Pod on gVisor and as a process of the host:
// from the host through a ClusterIP, and from another machine through a load balancer.
func (b *bench) servers(ctx context.Context) (err error) {
	registry, err := b.startRegistry()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry()) }()
	other, err := b.addMachine()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, command("ip", "netns", "delete", other)) }()
	for _, s := range []server{nginx(), redis(), postgres()} {
		if err := b.server(ctx, s, other); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// The host's address for other machines, and theirs (RFC 5737).
const hostAddress, otherAddress = "203.0.113.1", "203.0.113.2"

// addMachine makes a network namespace with a link to the host, and returns its name.
func (b *bench) addMachine() (string, error) {
	name := fmt.Sprintf("gbenchout%d", os.Getpid())
	if err := command("ip", "netns", "add", name); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"link", "add", "gbenchwan", "type", "veth", "peer", "name", "eth0", "netns", name},
		{"addr", "add", hostAddress + "/24", "dev", "gbenchwan"},
		{"link", "set", "gbenchwan", "up"},
		{"-n", name, "addr", "add", otherAddress + "/24", "dev", "eth0"},
		{"-n", name, "link", "set", "eth0", "up"},
	} {
		if err := command("ip", args...); err != nil {
			return "", errors.Join(err, command("ip", "netns", "delete", name))
		}
	}
	return name, nil
}

// startRegistry serves the images of Debian's programs on the host.
func (b *bench) startRegistry() (stop func() error, err error) {
	program := filepath.Join(b.dir, "registry")
	if err := command("go", "build", "-o", program, "./test/registry"); err != nil {
		return nil, err
	}
	return startOnHost(exec.Command(program, "-listen", registryAddress))
}

const registryAddress = "127.0.0.1:5000"

// startOnHost starts a server as a process of the host. What stop does lets it remove what it has made outside its directory.
func startOnHost(c *exec.Cmd) (stop func() error, err error) {
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.Setpgid = true // a Ctrl-C reaches it through us
	if err := c.Start(); err != nil {
		return nil, err
	}
	return func() error {
		err := c.Process.Signal(os.Interrupt)
		late := time.AfterFunc(10*time.Second, func() { _ = c.Process.Kill() })
		defer late.Stop()
		_ = c.Wait() // says that it was interrupted
		return err
	}, nil
}

// place is where a server runs, with its addresses for the host and for another machine.
type place struct {
	name                string
	fromHost, fromOther target
}

// server measures one server in all places.
func (b *bench) server(ctx context.Context, s server, other string) (err error) {
	dir, err := os.MkdirTemp("", "gondola-bench-"+s.name+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	port := s.port + 20000
	c, err := s.onHost(dir, port)
	if err != nil {
		return err
	}
	stop, err := startOnHost(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	places := []place{{name: "host", fromHost: target{"127.0.0.1", port}, fromOther: target{hostAddress, port}}}
	defer func() { err = errors.Join(err, b.removeServer(context.WithoutCancel(ctx), s)) }()
	for i, driver := range []string{"runc", "gvisor"} {
		p, err := b.createServer(ctx, s, driver, s.port+21000+int32(i))
		if err != nil {
			return err
		}
		places = append(places, p)
	}
	for _, p := range places {
		if err := s.until(ctx, p.fromHost); err != nil {
			return fmt.Errorf("on %s: %w", p.name, err)
		}
	}
	for _, f := range s.measured {
		if err := b.figure(ctx, f, places, other); err != nil {
			return err
		}
	}
	return nil
}

// figure measures one load in all places, twice: on the way back no place has a better turn than another.
func (b *bench) figure(ctx context.Context, f figure, places []place, other string) error {
	for _, way := range []struct {
		name   string
		target func(place) target
		enter  []string
	}{{"host → ClusterIP → Pod", func(p place) target { return p.fromHost }, nil},
		{"another machine → LoadBalancer → Pod", func(p place) target { return p.fromOther }, []string{"nsenter", "--net=/run/netns/" + other}}} {
		rates := map[string]float64{}
		for i := range 2 * len(places) {
			p := places[min(i, 2*len(places)-1-i)]
			rate, err := f.rate(ctx, append(way.enter[:len(way.enter):len(way.enter)], f.load(b.options, way.target(p))...))
			if err != nil {
				return fmt.Errorf("%s, on %s: %w", way.name, p.name, err)
			}
			rates[p.name] += rate / 2
		}
		b.add(f.what+", "+way.name, fmt.Sprintf("on runc %.0f %s; on gVisor %.0f %s", rates["runc"], f.unit, rates["gvisor"], f.unit),
			fmt.Sprintf("as a process of the host: %.0f %s", rates["host"], f.unit))
	}
	return nil
}

// rate runs a load, half a minute at most, and returns the number that it prints.
func (f figure) rate(ctx context.Context, args []string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	m := f.number.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s prints no %s:\n%s", strings.Join(args, " "), f.number, out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// createServer makes a Pod on a driver, with a volume if the server needs one, and its Service, open on the host at port.
func (b *bench) createServer(ctx context.Context, s server, driver string, port int32) (place, error) {
	name := s.name + "-" + driver
	labels, class := map[string]string{"app": name}, "gondola-"+driver
	group, seconds := int64(5432), int64(1)
	// A Pod that asks for nothing comes after every process of the host, if the host is busy.
	share := corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}}
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.PodSpec{RuntimeClassName: &class,
		SecurityContext: &corev1.PodSecurityContext{FSGroup: &group}, TerminationGracePeriodSeconds: &seconds,
		Containers: []corev1.Container{{Name: "main", Image: registryAddress + "/debian/" + s.name + ":12", Resources: share}}}}
	core := b.host.kube.CoreV1()
	if s.data != "" {
		claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
		if _, err := core.PersistentVolumeClaims(namespace).Create(ctx, &claim, metav1.CreateOptions{}); err != nil {
			return place{}, err
		}
		pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: s.data}}
	}
	if _, err := core.Pods(namespace).Create(ctx, &pod, metav1.CreateOptions{}); err != nil {
		return place{}, err
	}
	svc, err := core.Services(namespace).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Selector: labels, Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(s.port)}}}}, metav1.CreateOptions{})
	if err != nil {
		return place{}, err
	}
	return place{name: driver, fromHost: target{svc.Spec.ClusterIP, port}, fromOther: target{hostAddress, port}}, nil
}

// removeServer removes what createServer made and waits until it is gone.
func (b *bench) removeServer(ctx context.Context, s server) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	core := b.host.kube.CoreV1()
	var errs []error
	for _, driver := range []string{"runc", "gvisor"} {
		name := s.name + "-" + driver
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{core.Pods(namespace).Delete, core.Services(namespace).Delete,
			core.PersistentVolumeClaims(namespace).Delete} {
			if err := remove(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, b.noMachines(ctx))...)
}

// until waits until the server takes connections at an address and has taken what comes before the load.
func (s server) until(ctx context.Context, to target) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
		if err == nil {
			c.Close()
			if s.prepare == nil {
				return nil
			}
			args := s.prepare(to)
			if err = command(args[0], args[1:]...); err == nil {
				return nil
			}
		}
		if ended := wait(ctx, 50*time.Millisecond); ended != nil {
			return fmt.Errorf("%s does not answer: %w", to, err)
		}
	}
}
