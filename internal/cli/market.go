package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"gondola"
)

func (e *env) marketCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "market", Short: "Ask what a Machine would get, and where"}
	var regions []string
	var millis, memory int64
	var size, image string
	ask := &cobra.Command{
		Use: "ask", Short: "Show the bids and refusals of every worker; reserves nothing", Args: exactArgs(),
		Example: "  gondola market ask --size performance-2x\n  gondola market ask --region fra --cpu-millis 500 --memory 512",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a := gondola.Ask{Image: image, Requests: gondola.Resources{CPUMillis: millis, MemoryBytes: memory << 20}}
			if size != "" {
				g, ok := gondola.GuestPreset(size)
				if !ok {
					return gondola.Errorf(gondola.ErrInvalid, "size %q is not known: use shared-cpu-1x … performance-16x", size)
				}
				a.Requests, _ = g.Resources()
			}
			for _, r := range regions {
				a.Regions = append(a.Regions, gondola.Region(r))
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			auction, err := c.Ask(cmd.Context(), a)
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(auction)
			}
			rows := [][]string{}
			for _, b := range auction.Bids {
				cached := ""
				if b.ImageCached {
					cached = "cached"
				}
				rows = append(rows, []string{string(b.Region), string(b.Worker), "bid", fmt.Sprintf("%.3f", b.Price), fmt.Sprint(b.Fits), fmt.Sprintf("%s free of %s", b.Free, b.Capacity), cached})
			}
			for _, r := range auction.Refusals {
				rows = append(rows, []string{string(r.Region), string(r.Worker), "refusal", "", "0", r.Reason, ""})
			}
			return e.table([]string{"REGION", "WORKER", "ANSWER", "PRICE", "FITS", "WHY", "IMAGE"}, rows)
		},
	}
	f := ask.Flags()
	f.StringSliceVarP(&regions, "region", "r", nil, "regions to ask, in order of preference (default: all)")
	f.StringVar(&size, "size", "", "size, such as performance-2x")
	f.Int64Var(&millis, "cpu-millis", 0, "thousandths of a core to reserve")
	f.Int64Var(&memory, "memory", 0, "memory to reserve in MB")
	f.StringVar(&image, "image", "", "image, to see who has it")
	return group(cmd, ask)
}

func (e *env) regionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "region", Aliases: []string{"regions"}, Short: "List regions"}
	return group(cmd, &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List regions", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			regions, err := c.Regions(cmd.Context())
			if err != nil {
				return err
			}
			if e.asJSON {
				return e.printJSON(orEmpty(regions))
			}
			rows := [][]string{}
			for _, r := range regions {
				rows = append(rows, []string{string(r.Code), r.Name})
			}
			return e.table([]string{"CODE", "NAME"}, rows)
		},
	})
}
