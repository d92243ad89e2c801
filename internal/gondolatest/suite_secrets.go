package gondolatest

import (
	"encoding/base64"
	"slices"
	"strings"

	"gondola"
)

// keeper returns the platform's gondola.Secrets, which a worker does not have.
func (s *suite) keeper() (gondola.Secrets, bool) {
	k, ok := s.p.(gondola.Secrets)
	return k, ok
}

func names(list []gondola.AppSecret) (out []string) {
	for _, s := range list {
		out = append(out, s.Name)
	}
	return out
}

func (s *suite) secrets() {
	p, ok := s.keeper()
	if !ok {
		return
	}
	ctx, any := s.Context(), gondola.SecretsQuery{}
	if list, err := p.ListSecrets(ctx, suiteApp, any); err != nil || len(list) != 0 {
		s.Errorf("ListSecrets of nothing = %v, %v", list, err)
	}
	one, err := p.SetSecret(ctx, suiteApp, "TOKEN", "first")
	if err != nil || one.Version != 1 || len(one.Secrets) != 1 || one.Secrets[0].Name != "TOKEN" || one.Secrets[0].Digest == "" || one.Secrets[0].Value != "" ||
		one.Secrets[0].CreatedAt.IsZero() {
		s.Errorf("SetSecret = %+v, %v", one, err)
	}
	a, b := "a", "b"
	two, err := p.UpdateSecrets(ctx, suiteApp, map[string]*string{"A": &a, "B": &b, "GONE": nil})
	if err != nil || two.Version != 2 || !slices.Equal(names(two.Secrets), []string{"A", "B"}) {
		s.Errorf("UpdateSecrets = %+v, %v", two, err)
	}
	list, err := p.ListSecrets(ctx, suiteApp, gondola.SecretsQuery{MinVersion: 2})
	if err != nil || !slices.Equal(names(list), []string{"A", "B", "TOKEN"}) || list[2].Digest != one.Secrets[0].Digest || list[0].Digest == list[1].Digest || list[0].Value != "" {
		s.Errorf("ListSecrets = %+v, %v", list, err)
	}
	changed, err := p.SetSecret(ctx, suiteApp, "TOKEN", "second")
	if err != nil || changed.Version != 3 || changed.Secrets[0].Digest == one.Secrets[0].Digest || !changed.Secrets[0].CreatedAt.Equal(one.Secrets[0].CreatedAt) {
		s.Errorf("SetSecret of one that is there = %+v, %v", changed, err)
	}
	back, err := p.SetSecret(ctx, suiteApp, "TOKEN", "first")
	if err != nil || back.Version != 4 || back.Secrets[0].Digest != one.Secrets[0].Digest {
		s.Errorf("SetSecret to the old value = %+v, %v, want the digest of then and version 4", back, err)
	}
	if got, err := p.Secret(ctx, suiteApp, "TOKEN", any); err != nil || got.Value != "" || got.Digest != back.Secrets[0].Digest {
		s.Errorf("Secret = %+v, %v", got, err)
	}
	if got, err := p.Secret(ctx, suiteApp, "TOKEN", gondola.SecretsQuery{Show: true}); err != nil || got.Value != "first" {
		s.Errorf("Secret with its value = %+v, %v", got, err)
	}
	_, err = p.ListSecrets(ctx, suiteApp, gondola.SecretsQuery{MinVersion: 5})
	s.wants(err, gondola.ErrPrecondition, "ListSecrets of a version that is not reached")
	if gone, err := p.DeleteSecret(ctx, suiteApp, "TOKEN"); err != nil || gone.Version != 5 {
		s.Errorf("DeleteSecret = %+v, %v", gone, err)
	}
	_, err = p.DeleteSecret(ctx, suiteApp, "TOKEN")
	s.wants(err, gondola.ErrNotFound, "DeleteSecret again")
	_, err = p.Secret(ctx, suiteApp, "TOKEN", any)
	s.wants(err, gondola.ErrNotFound, "Secret of one that is gone")
	s.no(p.RenewSecretsKey(ctx), "RenewSecretsKey")
	if list, err := p.ListSecrets(ctx, suiteApp, gondola.SecretsQuery{Show: true}); err != nil || len(list) != 2 || list[0].Value != "a" || list[1].Value != "b" {
		s.Errorf("ListSecrets after the key was renewed = %+v, %v", list, err)
	}
	s.secretsRefused(p)
}

func (s *suite) secretsRefused(p gondola.Secrets) {
	ctx := s.Context()
	_, err := p.ListSecrets(ctx, "no-such-app", gondola.SecretsQuery{})
	s.wants(err, gondola.ErrNotFound, "ListSecrets of an unknown app")
	_, err = p.SetSecret(ctx, "no-such-app", "A", "b")
	s.wants(err, gondola.ErrNotFound, "SetSecret of an unknown app")
	for what, c := range map[string][2]string{"a dash": {"A-B", "x"}, "a digit first": {"1A", "x"}, "a reserved name": {"FLY_APP_NAME", "x"}, "a long name": {strings.Repeat("A", 256), "x"},
		"a zero byte": {"A", "x\x00"}, "a large value": {"A", strings.Repeat("x", gondola.MaxSecretValue+1)}} {
		_, err := p.SetSecret(ctx, suiteApp, c[0], c[1])
		s.wants(err, gondola.ErrInvalid, "SetSecret with "+what)
		if err != nil && strings.Contains(err.Error(), c[1]+c[1]) {
			s.Errorf("the error repeats the value: %v", err)
		}
	}
	_, err = p.UpdateSecrets(ctx, suiteApp, nil)
	s.wants(err, gondola.ErrInvalid, "UpdateSecrets of none")
	most := strings.Repeat("x", gondola.MaxSecretValue)
	many := map[string]*string{}
	for i := range gondola.MaxSecretBytes/gondola.MaxSecretValue + 1 {
		many["M"+strings.Repeat("_", i)] = &most
	}
	_, err = p.UpdateSecrets(ctx, suiteApp, many)
	s.wants(err, gondola.ErrInvalid, "UpdateSecrets beyond the room of all")
	if list, err := p.ListSecrets(ctx, suiteApp, gondola.SecretsQuery{}); err != nil || len(list) != 2 {
		s.Errorf("after what was refused there are %v, %v", names(list), err)
	}
}

// variable is what a container of a Machine has of an environment variable.
func (s *suite) variable(m gondola.Machine, container, name string) string {
	s.Helper()
	value := strings.TrimPrefix(strings.TrimSpace(s.run(m, container, "env", name)), name+"=")
	if value == "(unset)" {
		return ""
	}
	return value
}

func (s *suite) secretsOfMachines() {
	p, ok := s.keeper()
	if !ok {
		return
	}
	ctx := s.Context()
	set := func(name, value string) uint64 {
		u, err := p.SetSecret(ctx, suiteApp, name, value)
		s.no(err, "SetSecret")
		return u.Version
	}
	set("TOKEN", "one")
	c := config()
	c.Env = map[string]string{"TOKEN": "of the config", "OTHER": "other"}
	m := s.started(c)
	if got := s.variable(m, "", "TOKEN"); got != "one" {
		s.Errorf("TOKEN = %q, want the secret, which wins", got)
	}
	if got := s.variable(m, "", "OTHER"); got != "other" {
		s.Errorf("OTHER = %q", got)
	}
	skipping := s.create(gondola.CreateRequest{Config: config(), SkipSecrets: true})
	skipping = s.await(skipping.Ref(), gondola.Started)
	if got := s.variable(skipping, "", "TOKEN"); got != "" {
		s.Errorf("with skip_secrets TOKEN = %q", got)
	}
	version := set("TOKEN", "two")
	if got := s.variable(m, "", "TOKEN"); got != "one" {
		s.Errorf("while it runs TOKEN becomes %q", got)
	}
	for _, m := range []gondola.Machine{m, skipping} {
		s.no(p.(gondola.Platform).Restart(ctx, m.Ref(), gondola.RestartRequest{}), "Restart")
		s.await(m.Ref(), gondola.Started)
	}
	if got := s.variable(m, "", "TOKEN"); got != "two" {
		s.Errorf("after a restart TOKEN = %q, want two", got)
	}
	if got := s.variable(skipping, "", "TOKEN"); got != "" {
		s.Errorf("with skip_secrets TOKEN = %q after a restart", got)
	}
	s.no(s.p.Stop(ctx, m.Ref(), gondola.StopRequest{Signal: "SIGTERM"}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	set("TOKEN", "three")
	_, err := s.p.Start(ctx, m.Ref())
	s.no(err, "Start")
	s.await(m.Ref(), gondola.Started)
	if got := s.variable(m, "", "TOKEN"); got != "three" {
		s.Errorf("after a start TOKEN = %q, want three", got)
	}
	// Versions that are wanted.
	version, high := version+1, version+100
	_, err = s.p.Create(ctx, suiteApp, gondola.CreateRequest{Config: config(), MinSecretsVersion: &high})
	s.wants(err, gondola.ErrPrecondition, "Create with a version that is not reached")
	_, err = s.p.Update(ctx, m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: c, MinSecretsVersion: &high}})
	s.wants(err, gondola.ErrPrecondition, "Update with a version that is not reached")
	_, err = p.DeleteSecret(ctx, suiteApp, "TOKEN")
	s.no(err, "DeleteSecret")
	c.Env = nil
	got, err := s.p.Update(ctx, m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: c, MinSecretsVersion: &version}})
	s.no(err, "Update with a version that is reached")
	_, err = s.p.Wait(ctx, m.Ref(), gondola.WaitRequest{Version: got.Version, States: []gondola.State{gondola.Started}, Timeout: patience})
	s.no(err, "Wait")
	if got := s.variable(m, "", "TOKEN"); got != "" {
		s.Errorf("after it was deleted and the machine updated TOKEN = %q", got)
	}
}

func (s *suite) secretsOfContainers() {
	p, ok := s.keeper()
	if !ok {
		return
	}
	ctx := s.Context()
	c := gondola.Config{Containers: []gondola.Container{
		{Name: "a", Image: "test/app", Cmd: []string{"trap"}, Secrets: []gondola.SecretRef{{EnvVar: "AS", Name: "TOKEN"}},
			Files: []gondola.File{{GuestPath: "/etc/key", SecretName: "KEY"}}},
		{Name: "b", Image: "test/app", Cmd: []string{"trap"}},
	}}
	_, err := s.p.Create(ctx, suiteApp, gondola.CreateRequest{Config: c})
	s.wants(err, gondola.ErrPrecondition, "Create with a secret that is not there")
	bad, key := "no base64!", base64.StdEncoding.EncodeToString([]byte("of a file"))
	token := "of a variable"
	_, err = p.UpdateSecrets(ctx, suiteApp, map[string]*string{"TOKEN": &token, "KEY": &bad})
	s.no(err, "UpdateSecrets")
	_, err = s.p.Create(ctx, suiteApp, gondola.CreateRequest{Config: c})
	s.wants(err, gondola.ErrInvalid, "Create with a file that is not base64")
	_, err = p.SetSecret(ctx, suiteApp, "KEY", key)
	s.no(err, "SetSecret")
	m := s.allStarted(c)
	if got := s.variable(m, "a", "AS"); got != token {
		s.Errorf("AS = %q, want %q", got, token)
	}
	if got := s.run(m, "a", "read", "/etc/key"); got != "of a file" {
		s.Errorf("/etc/key holds %q", got)
	}
	for container, name := range map[string]string{"a": "TOKEN", "b": "TOKEN"} {
		if got := s.variable(m, container, name); got != "" {
			s.Errorf("container %s has %s = %q, which it does not name", container, name, got)
		}
	}
	s.no(s.p.Stop(ctx, m.Ref(), gondola.StopRequest{Signal: "SIGTERM"}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	_, err = p.DeleteSecret(ctx, suiteApp, "KEY")
	s.no(err, "DeleteSecret")
	_, err = s.p.Start(ctx, m.Ref())
	s.wants(err, gondola.ErrPrecondition, "Start without a secret that the config names")
}

// putSecrets checks what a server does before it starts a Machine.
func (s *suite) putSecrets() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	set := gondola.SecretSet{Version: 7, Values: map[string]string{"TOKEN": "put"}}
	for range 2 {
		s.no(s.p.PutSecrets(s.Context(), m.Ref(), set), "PutSecrets")
	}
	_, err := s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	m = s.await(m.Ref(), gondola.Started)
	if got := s.variable(m, "", "TOKEN"); got != "put" {
		s.Errorf("TOKEN = %q, want what was put", got)
	}
	s.no(s.p.PutPayload(s.Context(), m.Ref(), gondola.Payload{Secrets: map[string]string{"TOKEN": "smuggled"}}), "PutPayload")
	s.no(s.p.Restart(s.Context(), m.Ref(), gondola.RestartRequest{}), "Restart")
	m = s.await(m.Ref(), gondola.Started)
	if got := s.variable(m, "", "TOKEN"); got != "put" {
		s.Errorf("after a new payload TOKEN = %q, want what the server put", got)
	}
	_, missing := s.p.Get(s.Context(), gondola.Ref{App: suiteApp, ID: "00000000000000"})
	s.wants(missing, gondola.ErrNotFound, "Get")
	s.wants(s.p.PutSecrets(s.Context(), gondola.Ref{App: suiteApp, ID: "00000000000000"}, set), gondola.ErrNotFound, "PutSecrets of an unknown machine")
}
