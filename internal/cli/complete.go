package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"gondola"
)

// completeMachine offers the ids of Machines to the shell, each with its name.
func (e *env) completeMachine(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second) // somebody has pressed Tab
	defer cancel()
	c, err := e.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := c.List(ctx, "", gondola.ListFilter{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, m := range all {
		out = append(out, cobra.CompletionWithDesc(string(m.ID), m.Name))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
