package test

import (
	"context"
	"errors"

	"gondola"
)

// operation is what goes on when a process is killed.
type operation struct {
	setup func(c *crashed) error
	// act asks for the operation; nil means that it was acknowledged. It is asked for again where it was not: that must be harmless.
	act  func(c *crashed, ctx context.Context) error
	once bool // it is no request: it happens
	// wrong says what is not yet as it has to be in the end; nothing if all is.
	wrong func(c *crashed, ctx context.Context) string
}

var operations = map[string]operation{
	"create":         {setup: (*crashed).makeVolume, act: (*crashed).create, wrong: running("old")},
	"stop":           {setup: (*crashed).makeMachine, act: (*crashed).stopMachine, wrong: isState(gondola.Stopped)},
	"start":          {setup: (*crashed).makeStopped, act: (*crashed).startMachine, wrong: running("old")},
	"suspend":        {setup: (*crashed).makeMachine, act: (*crashed).suspend, wrong: isState(gondola.Suspended)},
	"resume":         {setup: (*crashed).makeSuspended, act: (*crashed).startMachine, wrong: running("old")},
	"resume cold":    {setup: (*crashed).makeUnusable, act: (*crashed).startMachine, wrong: running("old")},
	"stop suspended": {setup: (*crashed).makeSuspended, act: (*crashed).stopMachine, wrong: isState(gondola.Stopped)},
	"restart":        {setup: (*crashed).makeMachine, act: (*crashed).restart, wrong: running("old"), once: true},
	"update":         {setup: (*crashed).makeMachine, act: (*crashed).update, wrong: (*crashed).updated},
	"destroy":        {setup: (*crashed).makeMachine, act: (*crashed).destroy, wrong: (*crashed).destroyed},
	"payload":        {setup: (*crashed).makeMachine, act: (*crashed).payload, wrong: running("new")},
	"daemon dies":    {setup: (*crashed).makeMachine, act: (*crashed).killDaemon, wrong: running("old"), once: true},
	"pilot dies":     {setup: (*crashed).makeMachine, act: (*crashed).killPilot, wrong: running("old"), once: true},
	"sandbox dies":   {setup: (*crashed).makeMachine, act: (*crashed).killSandbox, wrong: running("old"), once: true},
	"container dies": {setup: (*crashed).makeMachine, act: (*crashed).endContainer, wrong: running("old"), once: true},
	"down":           {setup: (*crashed).makeMachine, act: (*crashed).down, wrong: running("old"), once: true},
	"volume":         {act: (*crashed).makeExtra, wrong: hasVolume("extra", 1)},
	"copy":           {setup: (*crashed).makeMachine, act: (*crashed).copyVolume, wrong: hasVolume("extra", 1)},
	"extend":         {setup: (*crashed).makeMachine, act: (*crashed).extend, wrong: hasVolume("data", 2)},
	"snapshot":       {setup: (*crashed).makeMachine, act: (*crashed).snapshot, wrong: (*crashed).snapshotted},
	"delete snapshot": {setup: (*crashed).makeSnapshot, act: (*crashed).deleteSnapshot,
		wrong: func(c *crashed, ctx context.Context) string {
			if got := c.snapshots(ctx); got != "[]" {
				return "snapshots are " + got
			}
			return ""
		}},
	"delete volume": {setup: func(c *crashed) error { return c.makeExtra(c.ctx) }, act: (*crashed).deleteVolume, wrong: (*crashed).volumeGone},
	"recover volume": {setup: func(c *crashed) error { return errors.Join(c.makeExtra(c.ctx), c.softDelete()) }, act: (*crashed).recoverVolume,
		wrong: hasVolume("extra", 1)},
	"collect":   {setup: (*crashed).leave, act: (*crashed).killDaemon, wrong: (*crashed).clean, once: true},
	"import":    {setup: (*crashed).makeArchive, act: (*crashed).importImage, wrong: hasImage(true)},
	"pull":      {setup: (*crashed).pushImage, act: (*crashed).pull, wrong: running("")},
	"prune":     {setup: (*crashed).unusedImage, act: (*crashed).prune, wrong: hasImage(false)},
	"restore":   {setup: (*crashed).makeSnapshot, act: (*crashed).restoreVolume, wrong: hasVolume("extra", 1)},
	"add":       {setup: (*crashed).makeMachine, act: (*crashed).addContainer, wrong: (*crashed).added},
	"renew key": {setup: (*crashed).setSecret, act: (*crashed).renewKey, wrong: (*crashed).secretKept},
	"chatter":   {setup: (*crashed).makeMachine, act: (*crashed).chatter, wrong: (*crashed).logged, once: true},

	"runc: create":         onRunc(operation{setup: (*crashed).makeVolume, act: (*crashed).create, wrong: running("old")}),
	"runc: stop":           onRunc(operation{setup: (*crashed).makeMachine, act: (*crashed).stopMachine, wrong: isState(gondola.Stopped)}),
	"runc: destroy":        onRunc(operation{setup: (*crashed).makeMachine, act: (*crashed).destroy, wrong: (*crashed).destroyed}),
	"runc: daemon dies":    onRunc(operation{setup: (*crashed).makeMachine, act: (*crashed).killDaemon, wrong: running("old"), once: true}),
	"runc: pilot dies":     onRunc(operation{setup: (*crashed).makeMachine, act: (*crashed).killPilot, wrong: running("old"), once: true}),
	"runc: sandbox dies":   onRunc(operation{setup: (*crashed).makeMachine, act: (*crashed).killSandbox, wrong: running("old"), once: true}),
	"runc: container dies": onRunc(operation{setup: (*crashed).makeMachine, act: (*crashed).endContainer, wrong: running("old"), once: true}),
}

// onRunc is the operation on a Machine without gVisor.
func onRunc(o operation) operation {
	setup := o.setup
	o.setup = func(c *crashed) error {
		c.driver = "runc"
		return setup(c)
	}
	return o
}
