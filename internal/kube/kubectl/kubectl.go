// Package kubectl is k8s.io/kubectl as a command, for `gondola kubectl`.
package kubectl

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubectl/pkg/cmd"

	"gondola/internal/kube"
)

// Command returns kubectl with its own flags and defaults, reading the user's kubeconfig as kubectl does. Where there is none (no --kubeconfig, no
// KUBECONFIG, no ~/.kube/config) it reads the one that fallback names; if that is "", none. Its config commands know the user's alone. Plugins
// (kubectl-foo on PATH) are not looked for. It is of the version that the cluster is of.
func Command(fallback func() string) *cobra.Command {
	kube.StampVersion()
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	c := cmd.NewKubectlCommand(cmd.KubectlOptions{
		ConfigFlags: flags,
		IOStreams:   genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	c.Use = "kubectl"
	before := c.PersistentPreRunE
	c.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		if _, err := os.Stat(clientcmd.RecommendedHomeFile); *flags.KubeConfig == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" && errors.Is(err, fs.ErrNotExist) {
			*flags.KubeConfig = fallback()
		}
		return before(cmd, args)
	}
	return c
}
