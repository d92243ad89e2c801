package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"gondola"
)

func (e *env) imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Aliases: []string{"images"}, Short: "Look after the images of the workers"}
	var reference string
	imp := &cobra.Command{
		Use: "import FILE", Short: "Import a docker-archive or an OCI layout (tar, also gzip'ed; - is standard input)", Args: exactArgs("a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := e.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			defer e.progress("importing " + args[0])()
			images, err := c.ImportImage(cmd.Context(), in, reference)
			if err != nil {
				return err
			}
			return e.printImages(images)
		},
	}
	imp.Flags().StringVar(&reference, "reference", "", "name to give it (default: the names in the archive)")
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List images", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			images, err := c.ListImages(cmd.Context())
			if err != nil {
				return err
			}
			return e.printImages(images)
		},
	}
	prune := &cobra.Command{
		Use: "prune", Short: "Remove images that no Machine uses", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			defer e.progress("removing unused images")()
			freed, err := c.PruneImages(cmd.Context())
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(map[string]int64{"freed_bytes": freed})
			}
			fmt.Fprintf(e.out, "%d MB freed\n", freed>>20)
			return nil
		},
	}
	return group(cmd, imp, list, prune)
}

func (e *env) printImages(images []gondola.ImageInfo) error {
	if e.asJSON {
		return e.printJSON(orEmpty(images))
	}
	rows := [][]string{}
	for _, i := range images {
		rows = append(rows, []string{i.Reference, i.Digest, fmt.Sprintf("%.1f MB", float64(i.SizeBytes)/1e6), string(i.Worker)})
	}
	return e.table([]string{"REFERENCE", "DIGEST", "SIZE", "WORKER"}, rows)
}
