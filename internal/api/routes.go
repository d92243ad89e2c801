package api

import (
	"net/http"

	"gondola"
	"gondola/internal/auth"
)

// route is one line of the table: where, who may, and what then. Paths are http.ServeMux patterns.
type route struct {
	method, path string
	access       auth.Access
	body         int64 // largest body in bytes; zero: not limited, or none is read
	handle       func(c *call) error
}

const (
	small = 1 << 20
	large = 64 << 20 // a Config with files, or a Payload
)

var (
	whoever   = auth.Access{Scope: auth.Anyone}
	derives   = auth.Access{Scope: auth.Anyone, Write: true}
	lists     = auth.Access{Scope: auth.Listing}
	makesApps = auth.Access{Scope: auth.WholeApps, Write: true}
	listsApp  = auth.Access{Scope: auth.AppList}
	reads     = auth.Access{Scope: auth.OneApp}
	changes   = auth.Access{Scope: auth.OneApp, Write: true}
	asks      = auth.Access{Scope: auth.OneApp, Itself: true}
	acts      = auth.Access{Scope: auth.OneApp, Write: true, Itself: true}
	looks     = auth.Access{Scope: auth.Platform}
	runs      = auth.Access{Scope: auth.Platform, Write: true}
)

// routes is every path of the API.
func (a *API) routes() []route {
	rs := append(a.publicRoutes(), a.gondolaRoutes()...)
	return append(rs, a.missingRoutes()...)
}

// publicRoutes are Fly.io's (https://docs.machines.dev).
func (a *API) publicRoutes() []route {
	const app, machine, volume = "/v1/apps/{app}", "/v1/apps/{app}/machines/{id}", "/v1/apps/{app}/volumes/{volume}"
	return []route{
		{"GET", "/v1/apps", lists, 0, a.ofApps(a.listApps)},
		{"POST", "/v1/apps", makesApps, small, a.ofApps(a.createApp)},
		{"GET", app, reads, 0, a.ofApps(a.getApp)},
		{"DELETE", app, makesApps, 0, a.ofApps(a.deleteApp)},

		{"GET", app + "/machines", listsApp, 0, a.listMachines},
		{"POST", app + "/machines", changes, large, a.createMachine},
		{"GET", machine, asks, 0, a.getMachine},
		{"POST", machine, changes, large, a.updateMachine},
		{"DELETE", machine, changes, 0, a.destroyMachine},
		{"POST", machine + "/start", changes, small, a.startMachine},
		{"POST", machine + "/stop", acts, small, a.stopMachine},
		{"POST", machine + "/restart", acts, small, a.restartMachine},
		{"POST", machine + "/suspend", acts, small, a.suspendMachine},
		{"POST", machine + "/signal", changes, small, a.signalMachine},
		{"GET", machine + "/wait", asks, 0, a.waitMachine},
		{"POST", machine + "/exec", acts, large, a.execMachine},
		{"GET", machine + "/lease", changes, 0, a.showLease}, // its nonce lets one change the Machine
		{"POST", machine + "/lease", changes, small, a.acquireLease},
		{"DELETE", machine + "/lease", changes, 0, a.releaseLease},
		{"POST", machine + "/cordon", changes, small, a.cordonMachine},
		{"POST", machine + "/uncordon", changes, small, a.uncordonMachine},
		{"GET", machine + "/versions", reads, 0, a.machineVersions},
		{"GET", machine + "/events", reads, 0, a.machineEvents},
		{"GET", machine + "/ps", reads, 0, a.machineProcesses},
		{"GET", machine + "/memory", reads, 0, a.memory},
		{"PUT", machine + "/memory", changes, small, a.setMemory},
		{"GET", machine + "/metadata", asks, 0, a.getMetadata},
		{"PUT", machine + "/metadata", acts, small, a.putMetadata},
		{"PATCH", machine + "/metadata", acts, small, a.patchMetadata},
		{"GET", machine + "/metadata/{key}", asks, 0, a.getMetadataKey},
		{"POST", machine + "/metadata/{key}", acts, small, a.setMetadataKey},
		{"DELETE", machine + "/metadata/{key}", acts, 0, a.deleteMetadataKey},

		{"GET", app + "/volumes", reads, 0, a.listVolumes},
		{"POST", app + "/volumes", changes, small, a.createVolume},
		{"GET", volume, reads, 0, a.getVolume},
		{"PUT", volume, changes, small, a.updateVolume},
		{"DELETE", volume, changes, 0, a.deleteVolume},
		{"PUT", volume + "/extend", changes, small, a.extendVolume},
		{"GET", volume + "/snapshots", reads, 0, a.listSnapshots},
		{"POST", volume + "/snapshots", changes, small, a.snapshotVolume},

		{"GET", app + "/secrets", reads, 0, a.ofApps(a.listSecrets)},
		{"POST", app + "/secrets", changes, large, a.ofApps(a.updateSecrets)},
		{"GET", app + "/secrets/{name}", reads, 0, a.ofApps(a.getSecret)},
		{"POST", app + "/secrets/{name}", changes, small, a.ofApps(a.setSecret)},
		{"DELETE", app + "/secrets/{name}", changes, 0, a.ofApps(a.deleteSecret)},

		{"GET", app + "/network_policies", reads, 0, a.ofApps(a.listNetworkPolicies)},
		{"POST", app + "/network_policies", changes, small, a.ofApps(a.putNetworkPolicy)},
		{"DELETE", app + "/network_policies/{policy}", changes, 0, a.ofApps(a.deleteNetworkPolicy)},

		{"POST", app + "/deploy_token", changes, small, a.ofApps(a.ofTokens(a.deployToken))},
		{"GET", "/v1/tokens/current", whoever, 0, a.ofTokens(a.currentTokens)},
		{"POST", "/v1/tokens/authenticate", whoever, small, a.ofTokens(a.authenticateTokens)},
		{"POST", "/v1/tokens/authorize", whoever, small, a.ofApps(a.ofTokens(a.authorizeTokens))},

		{"GET", "/v1/orgs/{org}/machines", lists, 0, a.listOrgMachines},
		{"GET", "/v1/orgs/{org}/volumes", lists, 0, a.listOrgVolumes},
		{"POST", "/v1/platform/placements", whoever, small, a.ofMarket(a.placements)},
		{"GET", "/v1/platform/regions", whoever, 0, a.ofMarket(a.regions)},
	}
}

// gondolaRoutes are what Fly.io's API lacks.
func (a *API) gondolaRoutes() []route {
	const root, machine = "/v1/gondola", "/v1/gondola/apps/{app}/machines/{id}"
	return []route{
		{"GET", root, whoever, 0, a.offered},
		{"GET", root + "/watch", lists, 0, a.watch},
		{"POST", root + "/ask", whoever, small, a.ask},
		{"GET", root + "/stats", lists, 0, a.stats},
		{"GET", machine + "/logs", reads, 0, a.logs},
		{"GET", machine + "/exec", changes, 0, a.execStream},
		{"GET", machine + "/attach", changes, 0, a.attach},
		{"GET", machine + "/dial", changes, 0, a.dial},
		{"PUT", machine + "/payload", changes, large, a.putPayload},
		{"PUT", machine + "/secrets", changes, large, a.putSecrets},
		{"POST", root + "/secrets/key", runs, small, a.ofApps(a.renewSecretsKey)},
		{"POST", root + "/apps/{app}/volumes/{volume}/recover", changes, small, a.recoverVolume},
		{"DELETE", root + "/apps/{app}/volumes/{volume}", changes, 0, a.purgeVolume},
		{"GET", root + "/apps/{app}/snapshots", reads, 0, a.listSnapshots},
		{"DELETE", root + "/apps/{app}/volumes/{volume}/snapshots/{snapshot}", changes, 0, a.deleteSnapshot},
		{"POST", machine + "/containers", changes, large, a.addContainer},
		{"PUT", machine + "/size", changes, small, a.resize},
		{"PUT", root + "/networks/{network}/services", runs, large, a.setServices},
		{"PUT", root + "/networks/{network}/policies/{owner}", runs, large, a.setPolicies},
		{"GET", root + "/entrances", looks, 0, a.entrances},
		{"POST", root + "/images", runs, 0, a.importImage},
		{"GET", root + "/images", looks, 0, a.listImages},
		{"DELETE", root + "/images", runs, 0, a.pruneImages},
		{"GET", root + "/orgs", lists, 0, a.ofApps(a.listOrgs)},
		{"GET", root + "/tokens", whoever, 0, a.ofTokens(a.listTokens)},
		{"POST", root + "/tokens", derives, small, a.ofTokens(a.createToken)},
		{"DELETE", root + "/tokens/{token}", derives, 0, a.ofTokens(a.revokeToken)},
	}
}

// missingRoutes are public routes that are not there yet: 501, by name.
func (a *API) missingRoutes() (rs []route) {
	const app, machine = "/v1/apps/{app}", "/v1/apps/{app}/machines/{id}"
	add := func(what string, want auth.Access, patterns ...[2]string) {
		for _, p := range patterns {
			rs = append(rs, route{p[0], p[1], want, 0, missing(what)})
		}
	}
	add("certificates", changes, [2]string{"GET", app + "/certificates"}, [2]string{"POST", app + "/certificates/acme"},
		[2]string{"POST", app + "/certificates/custom"}, [2]string{"GET", app + "/certificates/{hostname}"}, [2]string{"DELETE", app + "/certificates/{hostname}"},
		[2]string{"DELETE", app + "/certificates/{hostname}/acme"}, [2]string{"POST", app + "/certificates/{hostname}/check"},
		[2]string{"DELETE", app + "/certificates/{hostname}/custom"})
	add("IP assignments", changes, [2]string{"GET", app + "/ip_assignments"}, [2]string{"POST", app + "/ip_assignments"}, [2]string{"DELETE", app + "/ip_assignments/{ip}"})
	add("calls to take memory back from a machine, whose memory is its host's until it uses it,", changes, [2]string{"POST", machine + "/memory/reclaim"})
	add("secret keys", changes, [2]string{"GET", app + "/secretkeys"}, [2]string{"GET", app + "/secretkeys/{name}"}, [2]string{"POST", app + "/secretkeys/{name}"},
		[2]string{"DELETE", app + "/secretkeys/{name}"}, [2]string{"POST", app + "/secretkeys/{name}/{operation}"})
	add("tokens for Fly.io's own services and for other clouds", whoever, [2]string{"POST", "/v1/tokens/kms"}, [2]string{"POST", "/v1/tokens/oidc"})
	return rs
}

func missing(what string) func(c *call) error {
	return func(c *call) error {
		return gondola.Errorf(gondola.ErrUnsupported, "%s are not part of this version of gondola (%s %s)", what, c.Method, c.URL.Path)
	}
}

func (a *API) ofApps(h func(c *call) error) func(c *call) error {
	if a.apps != nil {
		return h
	}
	return onWorker
}

func (a *API) ofMarket(h func(c *call) error) func(c *call) error {
	if a.market != nil {
		return h
	}
	return onWorker
}

func onWorker(c *call) error {
	return gondola.Errorf(gondola.ErrUnsupported, "this is one worker, which knows no apps and no other workers: ask the server for %s %s", c.Method, c.URL.Path)
}

var _ http.Handler = (*API)(nil)
