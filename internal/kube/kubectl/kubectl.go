// Package kubectl is k8s.io/kubectl as a command, for `gondola kubectl`.
package kubectl

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd"

	"gondola/internal/kube"
)

// Command returns kubectl with its own flags and defaults, reading the user's kubeconfig as kubectl does. Plugins (kubectl-foo on PATH) are
// not looked for. It is of the version that the cluster is of.
func Command() *cobra.Command {
	kube.StampVersion()
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	c := cmd.NewKubectlCommand(cmd.KubectlOptions{
		ConfigFlags: flags,
		IOStreams:   genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	c.Use = "kubectl"
	return c
}
