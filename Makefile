# make up     builds everything and starts Gondola on this machine (root)
# make test   installs what the tests need and runs them all (root)
# make check  vets and tests everything that does not link Kubernetes
# make bench  measures every figure that the README quotes
# make conformance  runs the conformance suite of Kubernetes: FOCUS='regexp' a part of it, RESUME=1 what has not passed yet, DRIVERS=gvisor+runc;
#                   REPEAT=2 twice on one cluster, KILL=1 once more with kill -9 of the daemon in the middle
# make drivers  runs the drivers' suite on gVisor, runc and fake, and writes docs/drivers.md
# make oracle  lives Pods' lives on a real kubelet and on Gondola and compares the statuses, about two minutes: CHECKS=20 with 20 random ones, not 10
#              (make test has none: what chance finds is no fault of a change)
# make crash  kills daemon and pilots at every step, and writes docs/crash-safety.md

SHELL := /bin/bash
export CGO_ENABLED = 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
SMALL := -ldflags "-s -w"
ASSETS := cmd/gondola/assets

# Packages that link Kubernetes; all others are "light".
KUBE := gondola/bench gondola/cmd/gondola gondola/internal/kube/... gondola/test/... gondola/virtualkubelet
LIGHT = $(shell go list ./... | grep -v -E '^gondola/(cmd/gondola$$|internal/kube|test|bench$$|virtualkubelet$$)')

.PHONY: build small up test check race lint bench drivers oracle crash crash-on overload conformance conformance-quick apt clean

build: small
	go build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/gondola ./cmd/gondola

# The binaries that gondola carries inside: the pilot (with runsc) and the demo image's program.
small:
	go build $(SMALL) -o bin/gondola-pilot ./cmd/gondola-pilot
	go build $(SMALL) -o bin/gondola-hello ./cmd/gondola-hello
	gzip -9nc bin/gondola-pilot > bin/pilot.gz && { cmp -s bin/pilot.gz $(ASSETS)/pilot.gz || cp bin/pilot.gz $(ASSETS)/pilot.gz; }
	gzip -9nc bin/gondola-hello > bin/hello.gz && { cmp -s bin/hello.gz $(ASSETS)/hello.gz || cp bin/hello.gz $(ASSETS)/hello.gz; }

up: build
	bin/gondola up

# What the tests use beside Go, in one place: real workloads and the tools that look at the host. No package may start a service here: that is what
# policy-rc.d says, where the machine has none of its own.
APT := gcc libc6-dev iproute2 nftables e2fsprogs busybox-static nginx-light wrk runc redis-server redis-tools postgresql-15 \
	bash-static bind9-dnsutils curl netcat-openbsd
apt:
	@missing=""; for p in $(APT); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; [ -n "$$missing" ] || exit 0; \
	policy=/usr/sbin/policy-rc.d; [ -e $$policy ] || { printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; trap "rm $$policy" EXIT; }; \
	apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing

check: lint
	go test $(LIGHT)

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt -w these:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet $(LIGHT)
	go tool staticcheck $(LIGHT)

# The race detector needs cgo, for the tests only. Their processes need not wait a second at their end, as it has them do.
race: apt
	CGO_ENABLED=1 GORACE=atexit_sleep_ms=10 go test -race -timeout 20m $(LIGHT)

# The flows have deadlines that a person would have, so nothing runs beside them.
test: apt build lint race
	go vet $(KUBE)
	go tool staticcheck $(KUBE)
	go test -p 1 -timeout 65m $(KUBE)
	$(MAKE) oracle CHECKS=0

bench: apt build
	go run ./bench

# Case by driver: what passes, and what is left out for which missing capability. About two minutes.
drivers: apt
	GONDOLA_DRIVERS_REPORT=yes go test -count 1 -timeout 15m -v -run 'TestReport' ./internal/driver/drivertest

# A module of its own, for it links the kubelet. A failed random life is not made smaller for long: each try is another life.
oracle:
	cd test/oracle && go test -count 1 -timeout 20m -parallel 100 . -lives $(or $(CHECKS),10) -rapid.checks 1 -rapid.shrinktime 1s -rapid.nofailfile

# Every failpoint in every operation that reaches it, at its first hits and as three seeds choose: the table of docs/crash-safety.md. It takes
# about an hour and a half; where it was ended, crash-on goes on.
crash: apt build
	rm -f bin/crash.jsonl
	$(MAKE) crash-on
crash-on:
	GONDOLA_CRASH=all GONDOLA_CRASH_RECORD=$(CURDIR)/bin/crash.jsonl GONDOLA_CRASH_TABLE=$(CURDIR)/docs/crash-safety.md GONDOLA_CRASH_FOR=115m go test -count 1 -timeout 120m -v -run 'TestCrashPoints' ./test

# What a host bears: each kind of overload, bounded, about five minutes.
overload: build
	go run ./bench -only overload

# All of upstream's specs, in one to two hours; it writes test/conformance/RESULTS.md.
conformance: apt build
	go run ./test/suite $(if $(FOCUS),-focus '$(FOCUS)') $(if $(RESUME),-resume) $(if $(DRIVERS),-drivers $(DRIVERS)) $(if $(REPEAT),-repeat $(REPEAT)) $(if $(KILL),-kill)

# A few of each kind, in some minutes.
conformance-quick: apt build
	go run ./test/suite -quick

clean:
	rm -rf bin $(ASSETS)/*.gz
