package runsc

import (
	"bytes"
	"embed"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	_ "unsafe" // for linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	sentryfilter "gvisor.dev/gvisor/runsc/boot/filter"
	goferfilter "gvisor.dev/gvisor/runsc/fsgofer/filter"
)

// filters holds the seccomp programs of sandbox and gofer for the options that we start them with. To build such a program from its rules
// takes runsc 25 ms of CPU time at every start. gVisor's own builds carry them inside, in a file that its Go module leaves out.
// TestFilters compares them with what the module in use would build, and writes them anew with -update.
//
//go:embed filters
var filters embed.FS

// The registries that gVisor's generated file would fill. A program is taken only if its name, which spells out all options, is the one asked
// for; otherwise runsc builds it as ever.
//
//go:linkname sentryPrograms gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var sentryPrograms map[string]precompiledseccomp.Program

//go:linkname goferPrograms gvisor.dev/gvisor/runsc/fsgofer/filter.precompiledPrograms
var goferPrograms map[string]precompiledseccomp.Program

// filterHead precedes a program's instructions in its file: one line of JSON.
type filterHead struct {
	Name    string           `json:"name"`    // the options it is for
	Words   int              `json:"words"`   // 32-bit words that follow, little endian
	Offsets map[string][]int `json:"offsets"` // variable → the words that are its value
	PID     []int            `json:"pid"`     // words that are the process's own id, which gVisor's systrap has no variable for
}

// useFilters gives a sandbox or a gofer its programs. Without a file for this architecture nothing changes.
func useFilters(sandbox bool) error {
	file, list, registry := "gofer", goferfilter.ListPrecompiled, &goferPrograms
	if sandbox {
		file, list, registry = "sentry", sentryfilter.ListPrecompiled, &sentryPrograms
	}
	b, err := filters.ReadFile("filters/" + file + "-" + runtime.GOARCH)
	if err != nil {
		return nil // runsc builds them
	}
	programs, err := decodeFilters(b, os.Getpid())
	if err != nil {
		return fmt.Errorf("seccomp programs of %s: %w", file, err)
	}
	list() // makes the registry; it would do so later and overwrite ours
	for _, p := range programs {
		(*registry)[p.Name] = p
	}
	return nil
}

// encodeFilters is the contents of a file with programs that were built in a process of this id.
func encodeFilters(programs []precompiledseccomp.Program, pid int) ([]byte, error) {
	var out []byte
	for _, p := range programs {
		head := filterHead{Name: p.Name, Words: len(p.Bytecode32), Offsets: p.VarOffsets}
		for i, w := range p.Bytecode32 {
			if w == uint32(pid) {
				head.PID = append(head.PID, i)
			}
		}
		line, err := json.Marshal(head)
		if err != nil {
			return nil, err
		}
		out = append(append(out, line...), '\n')
		for _, w := range p.Bytecode32 {
			out = binary.LittleEndian.AppendUint32(out, w)
		}
	}
	return out, nil
}

// decodeFilters returns the programs of a file for the process pid.
func decodeFilters(b []byte, pid int) ([]precompiledseccomp.Program, error) {
	var out []precompiledseccomp.Program
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		var head filterHead
		if err := json.Unmarshal(line, &head); err != nil || !ok || len(rest) < 4*head.Words {
			return nil, fmt.Errorf("the file is damaged (%v)", err)
		}
		words := make([]uint32, head.Words)
		for i := range words {
			words[i] = binary.LittleEndian.Uint32(rest[4*i:])
		}
		for _, i := range head.PID {
			words[i] = uint32(pid)
		}
		out = append(out, precompiledseccomp.Program{Name: head.Name, Bytecode32: words, VarOffsets: head.Offsets})
		b = rest[4*head.Words:]
	}
	return out, nil
}
