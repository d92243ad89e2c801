package runsc

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/container"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// The limits that a container shows to its programs at /sys/fs/cgroup must be there before its first process is: Go and Java look as they
// start. They can only be written from inside: runsc makes the cgroup of a container in the same step as its first process, but takes one that
// is there already. So the root of the sandbox makes and fills those of all containers of the Spec before it goes to sleep, which costs a
// container's start no process. With the end of a run the sandbox removes its cgroup; for the next run, and for containers that come later, the
// same program runs once more.

// pauseProgram is where the root of a sandbox has its program: limiterCode and oci's pause.
const pauseProgram = "/pause"

// limiterCode carries out its arguments, one by one, and wipes each, so that ps shows the program alone: "d" and a directory makes that, if need
// be, and goes there; "f" and a file opens that; "w" and a value writes that to the file, or else to the standard output, and closes it; "h" and a name
// sets the host name; "x" ends the program, with status 1 if a "w", "f" or "h" or the change to a directory failed. Behind the last argument it falls through to the code that follows.
var limiterCode = map[string][]byte{
	"amd64": {
		0x4c, 0x8d, 0x74, 0x24, 0x10, // lea r14, [rsp+16]: the second of argv
		0x45, 0x31, 0xe4, // xor r12d, r12d: nothing has failed
		0xbd, 0x01, 0x00, 0x00, 0x00, // mov ebp, 1: standard output
		// next:
		0x49, 0x8b, 0x1e, // mov rbx, [r14]
		0x49, 0x83, 0xc6, 0x08, // add r14, 8
		0x48, 0x85, 0xdb, // test rbx, rbx
		0x0f, 0x84, 0xb9, 0x00, 0x00, 0x00, // jz → behind the end
		0x48, 0x89, 0xdf, // mov rdi, rbx
		0x31, 0xc0, // xor eax, eax
		0x48, 0x83, 0xc9, 0xff, // or rcx, -1
		0xf2, 0xae, // repne scasb
		0x48, 0xf7, 0xd1, // not rcx
		0x4c, 0x8d, 0x79, 0xfe, // lea r15, [rcx-2]: the length without the letter
		0x44, 0x0f, 0xb6, 0x2b, // movzx r13d, byte [rbx]
		0xc6, 0x03, 0x00, // mov byte [rbx], 0
		0x48, 0xff, 0xc3, // inc rbx
		0x41, 0x80, 0xfd, 'd', // cmp r13b, 'd'
		0x74, 0x22, // je → dir
		0x41, 0x80, 0xfd, 'f', // cmp r13b, 'f'
		0x74, 0x37, // je → file
		0x41, 0x80, 0xfd, 'w', // cmp r13b, 'w'
		0x74, 0x53, // je → write
		0x41, 0x80, 0xfd, 'h', // cmp r13b, 'h'
		0x74, 0x3e, // je → host
		0x41, 0x80, 0xfd, 'x', // cmp r13b, 'x'
		0x75, 0x70, // jne → wipe
		0x44, 0x89, 0xe7, // mov edi, r12d
		0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231 (exit_group)
		0x0f, 0x05, // syscall
		// dir:
		0x48, 0x89, 0xdf, // mov rdi, rbx
		0xbe, 0xed, 0x01, 0x00, 0x00, // mov esi, 0755
		0xb8, 0x53, 0x00, 0x00, 0x00, // mov eax, 83 (mkdir)
		0x0f, 0x05, // syscall
		0x48, 0x89, 0xdf, // mov rdi, rbx
		0xb8, 0x50, 0x00, 0x00, 0x00, // mov eax, 80 (chdir)
		0x0f, 0x05, // syscall
		0xeb, 0x45, // jmp → done
		// file:
		0x48, 0x89, 0xdf, // mov rdi, rbx
		0xbe, 0x01, 0x00, 0x00, 0x00, // mov esi, 1 (O_WRONLY)
		0xb8, 0x02, 0x00, 0x00, 0x00, // mov eax, 2 (open)
		0x0f, 0x05, // syscall
		0x89, 0xc5, // mov ebp, eax
		0xeb, 0x32, // jmp → done
		// host:
		0x48, 0x89, 0xdf, // mov rdi, rbx
		0x4c, 0x89, 0xfe, // mov rsi, r15
		0xb8, 0xaa, 0x00, 0x00, 0x00, // mov eax, 170 (sethostname)
		0x0f, 0x05, // syscall
		0xeb, 0x23, // jmp → done
		// write:
		0x89, 0xef, // mov edi, ebp
		0x48, 0x89, 0xde, // mov rsi, rbx
		0x4c, 0x89, 0xfa, // mov rdx, r15
		0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1 (write)
		0x0f, 0x05, // syscall
		0x41, 0x89, 0xc5, // mov r13d, eax
		0x89, 0xef, // mov edi, ebp
		0xb8, 0x03, 0x00, 0x00, 0x00, // mov eax, 3 (close)
		0x0f, 0x05, // syscall
		0xbd, 0x01, 0x00, 0x00, 0x00, // mov ebp, 1
		0x44, 0x89, 0xe8, // mov eax, r13d
		// done:
		0xc1, 0xe8, 0x1f, // shr eax, 31: 1 if negative
		0x41, 0x09, 0xc4, // or r12d, eax
		// wipe:
		0x48, 0x89, 0xdf, // mov rdi, rbx
		0x4c, 0x89, 0xf9, // mov rcx, r15
		0x31, 0xc0, // xor eax, eax
		0xf3, 0xaa, // rep stosb
		0xe9, 0x37, 0xff, 0xff, 0xff, // jmp → next
	},
}

// guestFiles are the limits of a container as its cgroup has them: its own, and where it has none or more, those of the Machine.
func (r *Runtime) guestFiles(c pilot.Container) (files []control.CgroupsWriteArg) {
	r.mu.Lock()
	limits := r.limits
	r.mu.Unlock()
	size := c.Config.Size()
	limits = tighter(limits, size.Limits)
	id := r.id(c.Name)
	add := func(file, value string) {
		files = append(files, control.CgroupsWriteArg{File: guestFile(id, file), Value: value})
	}
	memory, cpu := "max", "max"
	if n := limits.MemoryBytes; n > 0 {
		memory = strconv.FormatInt(n, 10)
	}
	if m := limits.CPUMillis; m > 0 {
		cpu = strconv.FormatInt(cgroup.Quota(m), 10)
	}
	add("memory.max", memory)
	add("cpu.max", fmt.Sprintf("%s %d", cpu, cgroup.Period))
	if n := r.spec.Processes; n > 0 {
		add("pids.max", strconv.FormatInt(n, 10))
	}
	if c.Config.Gondola != nil {
		add("cpu.weight", strconv.FormatInt(cgroup.ContainerWeight(size.Requests.CPUMillis), 10))
	}
	return files
}

// tighter returns the lower limits of two; zero is none.
func tighter(a, b gondola.Resources) gondola.Resources {
	lower := func(a, b int64) int64 {
		if a == 0 || b == 0 {
			return a + b
		}
		return min(a, b)
	}
	return gondola.Resources{CPUMillis: lower(a.CPUMillis, b.CPUMillis), MemoryBytes: lower(a.MemoryBytes, b.MemoryBytes)}
}

// limiterArgs are limiterCode's arguments for what a container shows.
func limiterArgs(files []control.CgroupsWriteArg) (args []string) {
	for _, f := range files {
		if dir := "d" + guestCgroups + f.File.Path; !slices.Contains(args, dir) {
			args = append(args, dir)
		}
		args = append(args, "f"+f.File.Name, "w"+f.Value)
	}
	return args
}

// guestLimits makes the root of a sandbox write what the containers of the Spec show, and then a byte to its standard output.
func (r *Runtime) guestLimits(pause *specs.Spec) {
	if limiterCode[runtime.GOARCH] == nil {
		return
	}
	// In no cgroup namespace of its own, so with the cgroups of all.
	pause.Mounts = append(pause.Mounts, specs.Mount{Destination: guestCgroups, Type: "cgroup", Source: "cgroup"})
	for _, c := range r.spec.Containers {
		pause.Process.Args = append(pause.Process.Args, limiterArgs(r.guestFiles(c))...)
	}
	pause.Process.Args = append(pause.Process.Args, "d/", "w.") // the root stays in no cgroup's directory
}

// limitGuest makes sure, before a run, that its cgroup shows its limits.
func (r *Runtime) limitGuest(ctx context.Context, c pilot.Container) error {
	files := r.guestFiles(c)
	root, err := r.booted()
	if err != nil {
		return err
	}
	if err := r.rootReady(ctx); err != nil {
		return err
	}
	if shown, err := shows(root, files); err == nil && shown {
		return nil
	}
	return r.writeGuest(files)
}

// shows says whether the files have their values.
func shows(root *container.Container, files []control.CgroupsWriteArg) (bool, error) {
	for _, f := range files {
		if shown, err := root.Sandbox.CgroupsReadControlFile(f.File); err != nil || strings.TrimSpace(shown) != f.Value {
			return false, err
		}
	}
	return true, nil
}

// writeGuest runs a program in the sandbox that writes the files.
func (r *Runtime) writeGuest(files []control.CgroupsWriteArg) error {
	root, err := r.booted()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(root.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == guestCgroups }) {
		return nil // made by an earlier pilot, or without limiterCode: its root does not know
	}
	return r.runInRoot(root, &auth.TaskCapabilities{}, limiterArgs(files)...)
}

// runInRoot runs the program of the sandbox's root once more, to carry out args.
func (r *Runtime) runInRoot(root *container.Container, capabilities *auth.TaskCapabilities, args ...string) error {
	argv := slices.Concat([]string{pauseProgram}, args, []string{"x"})
	pid, err := root.Sandbox.Execute(r.conf, &control.ExecArgs{Argv: argv, WorkingDirectory: "/", ContainerID: root.ID,
		Capabilities: capabilities, NoNewPrivileges: true})
	if err != nil {
		return err
	}
	ws, err := root.Sandbox.WaitPID(root.ID, pid)
	if err != nil {
		return err
	}
	if exit := oci.ExitOf(ws); exit.Code != 0 {
		return fmt.Errorf("%q in the sandbox ended with status %d", args, exit.Code)
	}
	return nil
}

// followRoot returns the standard output for the root of a new sandbox, which says once when it has written the limits; nil if it writes none.
func (r *Runtime) followRoot() (*os.File, error) {
	if limiterCode[runtime.GOARCH] == nil {
		return nil, nil
	}
	said, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	r.mu.Lock()
	r.ready = ready
	r.mu.Unlock()
	go func() {
		defer close(ready)
		defer said.Close()
		said.Read(make([]byte, 1)) // or it has ended
	}()
	return out, nil
}

// rootReady waits until the root of a sandbox that this pilot made has written the limits.
func (r *Runtime) rootReady(ctx context.Context) error {
	r.mu.Lock()
	ready := r.ready
	r.mu.Unlock()
	if ready == nil { // an earlier pilot made it
		return nil
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
