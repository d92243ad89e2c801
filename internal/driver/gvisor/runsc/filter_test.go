//go:build !race && amd64

package runsc

import (
	"flag"
	"os"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	sentryconfig "gvisor.dev/gvisor/runsc/boot/filter/config"
	"gvisor.dev/gvisor/runsc/config"
	goferconfig "gvisor.dev/gvisor/runsc/fsgofer/filter/config"
)

var update = flag.Bool("update", false, "write the seccomp programs anew (a minute)")

// filterCase is a seccomp program as runsc would build it at its start.
type filterCase struct {
	file    string
	name    string
	vars    precompiledseccomp.Values
	program *seccomp.Program
}

func filterCases(t *testing.T) []filterCase {
	t.Helper()
	systrap, err := platform.Lookup("systrap")
	if err != nil {
		t.Fatal(err)
	}
	build := func(rules, deny seccomp.SyscallRules, options seccomp.ProgramOptions) *seccomp.Program {
		return &seccomp.Program{RuleSets: []seccomp.RuleSet{{Rules: deny}, {Rules: rules, Action: seccomp.Allow}}, Options: options}
	}
	var cases []filterCase
	for _, info := range systrap.PrecompiledSeccompInfo() {
		o := sentryconfig.Options{Platform: info, HostFilesystem: true, ControllerFD: 47}
		rules, deny := sentryconfig.Rules(o)
		cases = append(cases, filterCase{"sentry", o.ConfigKey(), o.Vars(), build(rules, deny, sentryconfig.SeccompOptions(o))})
	}
	for _, uds := range []config.HostUDS{config.HostUDSNone, config.HostUDSOpen, config.HostUDSAll} {
		for _, lisafs := range []bool{false, true} {
			o := goferconfig.Options{UDSOpenEnabled: uds.AllowOpen(), UDSCreateEnabled: uds.AllowCreate(), DirectFS: true, LisafsNeeded: lisafs}
			rules, deny := goferconfig.Rules(o)
			cases = append(cases, filterCase{"gofer", o.ConfigKey(), o.Vars(), build(rules, deny, seccomp.ProgramOptions{})})
		}
	}
	return cases
}

// TestFilters compares the programs that are embedded with those that this version of gVisor builds at its start.
func TestFilters(t *testing.T) {
	cases := filterCases(t)
	if *update {
		updateFilters(t, cases)
	}
	for _, c := range cases {
		b, err := os.ReadFile("filters/" + c.file + "-amd64")
		if err != nil {
			t.Fatal(err)
		}
		programs, err := decodeFilters(b, os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(programs, func(p precompiledseccomp.Program) bool { return p.Name == c.name })
		if i < 0 {
			t.Errorf("there is no program for %s; write it with -update", c.name)
			continue
		}
		got, err := programs[i].RenderInstructions(c.vars)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		want, _, err := c.program.Build()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: the program of %d instructions is not the one of %d that this version of gVisor builds; write it with -update", c.name, len(got), len(want))
		}
	}
}

func updateFilters(t *testing.T, cases []filterCase) {
	for file, compile := range map[string]func() ([]precompiledseccomp.Program, error){
		"sentry": sentryconfig.PrecompiledPrograms, "gofer": goferconfig.PrecompiledPrograms} {
		all, err := compile()
		if err != nil {
			t.Fatal(err)
		}
		var programs []precompiledseccomp.Program
		for _, c := range cases {
			if i := slices.IndexFunc(all, func(p precompiledseccomp.Program) bool { return p.Name == c.name }); i >= 0 {
				programs = append(programs, all[i])
			}
		}
		b, err := encodeFilters(programs, os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("filters/"+file+"-amd64", b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
