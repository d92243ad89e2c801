package api

import (
	"net/http"

	"gondola"
)

// operation says of a route what its handler reads and writes.
type operation struct {
	title  string
	query  []parameter
	in     any    // a value of the type of the JSON body; nil if none is read
	sends  string // content type of a body that is not JSON
	out    any    // a value of the type of the answer; nil if that has no body or is not JSON
	stream string // content type of an answer that is not JSON
	status int    // if zero, 200
	lease  bool   // the lease of the Machine counts
}

func (o operation) code() int {
	if o.status != 0 {
		return o.status
	}
	return http.StatusOK
}

func (o operation) pages() bool {
	for _, p := range o.query {
		if p.name == "cursor" {
			return true
		}
	}
	return false
}

// parameter is one of the query's.
type parameter struct{ name, kind, text string }

var (
	paging       = []parameter{{"limit", "integer", "how many at most; without it, all"}, {"cursor", "string", "fly-next-cursor of the page before"}}
	filters      = []parameter{{"include_deleted", "boolean", "destroyed Machines of the last 48 hours too"}, {"region", "string", "only those of this region"}, {"state", "string", "only those in this state, or in one of several, repeated or with commas; with destroyed, those of the last 48 hours"}, {"include_leases", "boolean", "say who holds each Machine"}, {"metadata.{key}", "string", "only those with this metadata"}}
	secretsQuery = []parameter{{"show_secrets", "boolean", "with their values; for a token that may change them"}, {"min_version", "integer", "412 while the App's secrets are older"}, {"version", "integer", "the same"}}
	selected     = []parameter{{"metadata.{key}", "string", "only Machines with this metadata"}}
)

// with joins lists of parameters.
func with(lists ...[]parameter) (all []parameter) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// one is a list of one parameter.
func one(name, kind, text string) []parameter { return []parameter{{name, kind, text}} }

// operations describes every route that is served, by "METHOD path".
func operations() map[string]operation {
	ops := publicOperations()
	for route, op := range gondolaOperations() {
		ops[route] = op
	}
	return ops
}

func publicOperations() map[string]operation {
	const app, machine, volume = "/v1/apps/{app}", "/v1/apps/{app}/machines/{id}", "/v1/apps/{app}/volumes/{volume}"
	return map[string]operation{
		"GET /v1/apps":  {title: "List the Apps of an organisation", query: with(one("org_slug", "string", "the organisation; if there is none, all that the token reaches"), paging), out: appList{}},
		"POST /v1/apps": {title: "Make an App", in: newApp{}, out: madeApp{}, status: http.StatusCreated},
		"GET " + app:    {title: "Show an App", out: gondola.App{}},
		"DELETE " + app: {title: "Destroy an App with its Machines and Volumes", out: okAnswer{}, status: http.StatusAccepted},

		"GET " + app + "/machines":              {title: "List the Machines of an App, oldest first", query: with(filters, one("summary", "boolean", "without config and events"), paging), out: []gondola.Machine{}},
		"POST " + app + "/machines":             {title: "Create a Machine, and launch it", in: gondola.CreateRequest{}, out: gondola.Machine{}},
		"GET " + machine:                        {title: "Show a Machine", query: with(one("version", "string", "of this version; an old one is replaced for ever"), one("include_leases", "boolean", "say who holds it")), out: gondola.Machine{}},
		"POST " + machine:                       {title: "Give a Machine a new config, as a new version", query: one("force", "boolean", "let the update drop config.gondola"), in: gondola.UpdateRequest{}, out: gondola.Machine{}, lease: true},
		"DELETE " + machine:                     {title: "Destroy a Machine for ever", query: with(one("force", "boolean", "even if it runs"), one("kill", "boolean", "the same")), out: okAnswer{}, lease: true},
		"POST " + machine + "/start":            {title: "Start a Machine", out: gondola.StartResult{}, lease: true},
		"POST " + machine + "/stop":             {title: "Stop a Machine", in: gondola.StopRequest{}, out: okAnswer{}, lease: true},
		"POST " + machine + "/restart":          {title: "Stop a Machine and start it again", query: with(one("timeout", "string", "until SIGKILL, such as 10s"), one("signal", "string", "signal to begin with"), one("force_stop", "boolean", "with SIGKILL at once")), out: okAnswer{}, lease: true},
		"POST " + machine + "/suspend":          {title: "Write a Machine's memory to disk and end it; start makes it run on", out: okAnswer{}, lease: true},
		"POST " + machine + "/signal":           {title: "Send a signal to a Machine's main process", in: signalBody{}, out: okAnswer{}},
		"GET " + machine + "/wait":              {title: "Wait until a Machine is in a state; 408 if it is not in time", query: with(one("state", "string", "one or several, repeated or with commas; settled is any that it does not leave by itself; if there is none, started"), one("timeout", "integer", "seconds, 1 to 60; if there is none, 60"), one("version", "string", "of this version"), one("instance_id", "string", "the same"), one("from_event_id", "string", "only after this event")), out: gondola.WaitResult{}},
		"POST " + machine + "/exec":             {title: "Run a command in a Machine to its end", in: execBody{}, out: gondola.ExecResult{}},
		"GET " + machine + "/lease":             {title: "Show the lease of a Machine", out: leaseAnswer[gondola.Lease]{}},
		"POST " + machine + "/lease":            {title: "Take or refresh the lease of a Machine", query: one("ttl", "integer", "seconds, instead of the body's"), in: gondola.LeaseRequest{}, out: leaseAnswer[gondola.Lease]{}, status: http.StatusCreated, lease: true},
		"DELETE " + machine + "/lease":          {title: "Give the lease of a Machine back", out: leaseAnswer[okAnswer]{}, lease: true},
		"POST " + machine + "/cordon":           {title: "Keep new connections from a Machine's services", out: okAnswer{}, lease: true},
		"POST " + machine + "/uncordon":         {title: "Let new connections come to a Machine's services again", out: okAnswer{}, lease: true},
		"GET " + machine + "/versions":          {title: "List what a Machine has been, newest first", out: []gondola.MachineVersion{}},
		"GET " + machine + "/events":            {title: "List what was done to a Machine, newest first", query: one("limit", "integer", "how many at most"), out: []gondola.Event{}},
		"GET " + machine + "/ps":                {title: "List the processes of a Machine", query: with(one("sort_by", "string", "pid, cpu, rss, stime, rtime, command or directory"), one("order", "string", "asc or desc")), out: []gondola.ProcessStat{}},
		"GET " + machine + "/memory":            {title: "Show how much memory a Machine that runs may use, and how much of that is free", out: gondola.Memory{}},
		"PUT " + machine + "/memory":            {title: "Change how much memory a Machine that runs may use", in: memoryBody{}, out: gondola.Memory{}, lease: true},
		"GET " + machine + "/metadata":          {title: "Show the metadata of a Machine", out: map[string]string{}},
		"PUT " + machine + "/metadata":          {title: "Replace the metadata of a Machine", in: metadataBody{}, status: http.StatusNoContent},
		"PATCH " + machine + "/metadata":        {title: "Merge into the metadata of a Machine; null and the empty string delete a key", in: metadataBody{}, status: http.StatusNoContent},
		"GET " + machine + "/metadata/{key}":    {title: "Show one value of a Machine's metadata", out: valueAnswer{}},
		"POST " + machine + "/metadata/{key}":   {title: "Set one value of a Machine's metadata", in: valueBody{}, status: http.StatusNoContent},
		"DELETE " + machine + "/metadata/{key}": {title: "Delete one value of a Machine's metadata", status: http.StatusNoContent},

		"GET " + app + "/volumes":       {title: "List the Volumes of an App, oldest first", query: paging, out: []gondola.Volume{}},
		"POST " + app + "/volumes":      {title: "Make a Volume", in: gondola.CreateVolumeRequest{}, out: gondola.Volume{}},
		"GET " + volume:                 {title: "Show a Volume", out: gondola.Volume{}},
		"PUT " + volume:                 {title: "Change how a Volume's snapshots are kept", in: gondola.UpdateVolumeRequest{}, out: gondola.Volume{}},
		"DELETE " + volume:              {title: "Delete a Volume", out: gondola.Volume{}},
		"PUT " + volume + "/extend":     {title: "Make a Volume larger", in: extendBody{}, out: gondola.ExtendVolumeResponse{}},
		"GET " + volume + "/snapshots":  {title: "List the snapshots of a Volume", out: []gondola.VolumeSnapshot{}},
		"POST " + volume + "/snapshots": {title: "Keep a copy of a Volume as it is now", in: snapshotBody{}, out: gondola.VolumeSnapshot{}},

		"GET " + app + "/network_policies":             {title: "List the network policies of an App, oldest first", out: []gondola.NetworkPolicy{}},
		"POST " + app + "/network_policies":            {title: "Make a network policy, or with its id replace one", in: gondola.NetworkPolicy{}, out: gondola.NetworkPolicy{}},
		"DELETE " + app + "/network_policies/{policy}": {title: "Delete a network policy", out: okAnswer{}},

		"GET " + app + "/secrets":           {title: "List an App's secrets: names and digests", query: secretsQuery, out: secretList{}},
		"POST " + app + "/secrets":          {title: "Set and remove several of an App's secrets, all or none", in: secretsBody{}, out: secretsAnswer{}},
		"GET " + app + "/secrets/{name}":    {title: "Show one of an App's secrets", query: secretsQuery, out: gondola.AppSecret{}},
		"POST " + app + "/secrets/{name}":   {title: "Set one of an App's secrets", in: valueBody{}, out: secretAnswer{}, status: http.StatusCreated},
		"DELETE " + app + "/secrets/{name}": {title: "Remove one of an App's secrets", out: versionAnswer{}},

		"POST " + app + "/deploy_token": {title: "Make a token of one App from one's own", in: deployBody{}, out: deployAnswer{}},
		"GET /v1/tokens/current":        {title: "Tell what one's own tokens reach", out: currentAnswer{}},
		"POST /v1/tokens/authenticate":  {title: "Say whose tokens are in a header", in: headerBody{}, out: []gondola.VerifiedToken{}},
		"POST /v1/tokens/authorize":     {title: "Say whether a header opens something", in: authorizeBody{}, out: authorizeAnswer{}},

		"GET /v1/orgs/{org}/machines":  {title: "List the Machines of an organisation, or with - of all", query: with(filters, one("summary", "boolean", "without config and events"), one("updated_after", "string", "only those that changed after this time, RFC 3339"), paging), out: orgMachines{}},
		"GET /v1/orgs/{org}/volumes":   {title: "List the Volumes of an organisation, or with - of all", query: with(one("region", "string", "only those of this region"), one("state", "string", "only those in this state"), paging), out: orgVolumes{}},
		"POST /v1/platform/placements": {title: "Ask how many Machines of a size would go where; places none", in: gondola.PlacementsRequest{}, out: placementList{}},
		"GET /v1/platform/regions":     {title: "List the regions", out: regionList{}},
	}
}

func gondolaOperations() map[string]operation {
	const root, machine = "/v1/gondola", "/v1/gondola/apps/{app}/machines/{id}"
	const frames = "a WebSocket of frames (docs/rfd/0002-gondola-extension.md)"
	return map[string]operation{
		"GET " + root:                           {title: "Say which contracts beyond Fly.io's API there are", out: gondola.Offered{}},
		"GET " + root + "/watch":                {title: "Follow what changes: one Change as JSON per line", query: with(one("offers", "boolean", "standing offers too"), selected), stream: "application/x-ndjson"},
		"POST " + root + "/ask":                 {title: "Ask every worker for a bid; reserves nothing", in: gondola.Ask{}, out: gondola.Auction{}},
		"GET " + root + "/stats":                {title: "Tell what Machines use and how their hosts do", query: with(one("region", "string", "only this region's workers"), one("app", "string", "only Machines of this App"), one("machine", "string", "only this Machine, with app"), one("host_only", "boolean", "leave the Machines out"), selected), out: []gondola.WorkerStats{}},
		"GET " + machine + "/logs":              {title: "Read what a container wrote", query: with(one("container", "string", "if there is none, the first"), one("previous", "boolean", "of the run before"), one("follow", "boolean", "go on while it runs"), one("timestamps", "boolean", "begin lines with their time"), one("cri", "boolean", "lines as they are stored"), one("since", "string", "from this time on, RFC 3339"), one("tail", "integer", "only the last so many lines"), one("limit_bytes", "integer", "no more than that"), one("stream", "string", "stdout or stderr; if there is none, both")), stream: "text/plain"},
		"GET " + machine + "/exec":              {title: "Run a command with its streams connected: " + frames, query: with(one("command", "string", "once per argument"), one("container", "string", "if there is none, the first"), one("tty", "boolean", "with a terminal"), one("stdin", "boolean", "with standard input")), status: http.StatusSwitchingProtocols},
		"GET " + machine + "/attach":            {title: "Connect to a container's own streams: " + frames, query: one("container", "string", "if there is none, the first"), status: http.StatusSwitchingProtocols},
		"GET " + machine + "/dial":              {title: "Connect to a TCP port in a Machine: " + frames, query: one("port", "integer", "which"), status: http.StatusSwitchingProtocols},
		"PUT " + machine + "/payload":           {title: "Replace the contents that a Machine got beside its config", in: gondola.Payload{}, out: okAnswer{}},
		"POST " + machine + "/containers":       {title: "Add a container to a Machine that runs", in: gondola.AddContainerRequest{}, out: okAnswer{}},
		"PUT " + machine + "/size":              {title: "Change what a Machine reserves and may use, while it runs", in: gondola.ResizeRequest{}, out: gondola.Machine{}, lease: true},
		"GET " + root + "/apps/{app}/snapshots": {title: "List the snapshots of all Volumes that an App has or had", out: []gondola.VolumeSnapshot{}},
		"DELETE " + root + "/apps/{app}/volumes/{volume}/snapshots/{snapshot}": {title: "Delete a snapshot; - is whatever Volume it is of", out: okAnswer{}},
		"PUT " + machine + "/secrets":                                          {title: "Replace what a Machine gets of its App's secrets at its next start", in: gondola.SecretSet{}, out: okAnswer{}},
		"POST " + root + "/secrets/key":                                        {title: "Seal all Apps' secrets with a new key", out: okAnswer{}},
		"POST " + root + "/apps/{app}/volumes/{volume}/recover":                {title: "Get a deleted Volume back", out: gondola.Volume{}},
		"DELETE " + root + "/apps/{app}/volumes/{volume}":                      {title: "Delete a Volume for ever", out: gondola.Volume{}},
		"GET " + root + "/orgs":                                                {title: "List the organisations that the token reaches", out: []gondola.OrgInfo{}},
		"GET " + root + "/tokens":                                              {title: "List the tokens that were made from one's own", out: []gondola.Token{}},
		"POST " + root + "/tokens":                                             {title: "Make a narrower token from one's own", in: gondola.NewToken{}, out: gondola.MadeToken{}, status: http.StatusCreated},
		"DELETE " + root + "/tokens/{token}":                                   {title: "Revoke a token, and all that were made from it", out: okAnswer{}},
		"PUT " + root + "/networks/{network}/services":                         {title: "Replace the virtual services of a network", in: []gondola.VirtualService{}, out: okAnswer{}},
		"PUT " + root + "/networks/{network}/policies/{owner}":                 {title: "Replace an owner's policies of a network", in: gondola.PolicySet{}, out: okAnswer{}},
		"GET " + root + "/entrances":                                           {title: "Tell where the world can come in", out: []gondola.Entrance{}},
		"POST " + root + "/images":                                             {title: "Import an archive of images", query: one("reference", "string", "name of an image that has none"), sends: "application/x-tar", out: []gondola.ImageInfo{}},
		"GET " + root + "/images":                                              {title: "List images", out: []gondola.ImageInfo{}},
		"DELETE " + root + "/images":                                           {title: "Remove images that no Machine uses", out: freedAnswer{}},
	}
}

// Bodies that have no type in the root package.
type (
	// okAnswer is what Fly.io's API answers where there is nothing to say.
	okAnswer struct {
		OK bool `json:"ok"`
	}
	newApp struct {
		gondola.NewApp
		AppName gondola.AppName `json:"app_name"` // the documentation's name for it (trap 6)
	}
	// madeApp has created_at for the OpenAPI file, the whole App for fly-go.
	madeApp struct {
		gondola.App
		CreatedAt int64 `json:"created_at"`
	}
	appList struct {
		Apps  []gondola.App `json:"apps"`
		Next  string        `json:"next_cursor,omitempty"`
		Total int           `json:"total_apps"`
	}
	signalBody struct {
		Signal gondola.Signal `json:"signal"` // a name or a number (trap 3)
	}
	valueBody struct {
		Value *string `json:"value"`
	}
	valueAnswer struct {
		Value string `json:"value"`
	}
	extendBody struct {
		SizeGB int `json:"size_gb"`
	}
	// snapshotBody is, beside Fly.io's empty body, the id of the snapshot: with it the call can be done again.
	snapshotBody struct {
		ID string `json:"id"`
	}
	orgMachines struct {
		Machines     []orgMachine     `json:"machines"`
		Next         string           `json:"next_cursor,omitempty"`
		LastID       string           `json:"last_machine_id,omitempty"`
		LastUpdated  string           `json:"last_updated_at,omitempty"`
		ErrorRegions []gondola.Region `json:"error_regions"`
	}
	orgVolumes struct {
		Volumes     []gondola.Volume `json:"volumes"`
		Next        string           `json:"next_cursor,omitempty"`
		LastID      string           `json:"last_volume_id,omitempty"`
		LastUpdated string           `json:"last_updated_at,omitempty"`
	}
	placementList struct {
		Regions []gondola.Placement `json:"regions"`
	}
	// regionList has capitalised keys, as the real API does and fly-go has them (trap 8).
	regionList struct {
		Regions []gondola.RegionInfo
		Nearest gondola.Region
	}
	freedAnswer struct {
		Bytes int64 `json:"freed_bytes"`
	}
)
