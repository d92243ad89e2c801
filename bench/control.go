package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
)

// control measures the control plane alone, whose Machines start at once because they are goroutines: a benchmark of internal/kube.
func (b *bench) control(ctx context.Context) error {
	n := b.rounds(400, 50)
	c := exec.CommandContext(ctx, "go", "test", "./internal/kube", "-run=^$", "-bench=^BenchmarkPods$", fmt.Sprintf("-benchtime=%dx", n))
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	m := regexp.MustCompile(`BenchmarkPods\S*\s+(\d+)\s.*?([\d.]+) CPU-ms/Pod\s+([\d.]+) Pods/s`).FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("the benchmark says nothing of Pods/s: %s", out)
	}
	b.add(fmt.Sprintf("Deployment of %s Pods whose Machines start at once: control plane alone", m[1]), fmt.Sprintf("%s Pods/s, %s ms of CPU time per Pod", m[3], m[2]), "")
	return nil
}
