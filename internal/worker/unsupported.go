package worker

import "gondola"

// unsupportedConfig refuses by name what a Config asks for and no worker has: what a Machine says is done or refused, never passed over. Pure.
func unsupportedConfig(c *gondola.Config) error {
	unsupported := func(field, why string) error {
		return gondola.Errorf(gondola.ErrUnsupported, "config.%s: %s", field, why)
	}
	switch {
	case c.Init.SwapSizeMB != 0:
		return unsupported("init.swap_size_mb", "machines of this platform have no swap; ask for more memory")
	case len(c.Init.KernelArgs) > 0:
		return unsupported("init.kernel_args", "a machine has no kernel that takes arguments")
	case c.CacheDrive != nil:
		return unsupported("cache_drive", "use volumes with temp_dir, or a mount")
	case c.Spot != nil:
		return unsupported("spot", "this platform does not sell spare capacity by price")
	case c.Rootfs != nil && c.Rootfs.SizeGB != 0:
		return unsupported("rootfs.size_gb", "root file systems have the host's disk in common")
	}
	g := c.Guest
	switch {
	case g == nil:
		return nil
	case g.GPUs > 0 || g.GPUKind != "":
		return unsupported("guest.gpus", "this worker has none")
	case len(g.KernelArgs) > 0:
		return unsupported("guest.kernel_args", "a machine has no kernel that takes arguments")
	case g.HostDedicationID != "":
		return unsupported("guest.host_dedication_id", "hosts are not dedicated; name a region that has only the host you want")
	case len(g.RequiredHostFeatures) > 0:
		return unsupported("guest.required_host_features", "workers tell none; config.gondola.driver chooses the isolation")
	case g.MaxMemoryMB != 0 && g.MaxMemoryMB != g.MemoryMB:
		return unsupported("guest.max_memory_mb", "memory does not grow by itself; set memory_mb to what is needed")
	}
	return nil
}
