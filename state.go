package gondola

import (
	"fmt"
	"slices"
)

// State is where a Machine is in its life (https://fly.io/docs/machines/machine-states/).
type State string

const (
	Created      State = "created"       // recorded, never started
	Starting     State = "starting"      // image, network and sandbox are being prepared
	Started      State = "started"       // its containers run, or are being restarted inside
	Stopping     State = "stopping"      // asked to end
	Stopped      State = "stopped"       // its containers have ended; it holds no CPU or memory
	Suspending   State = "suspending"    // its memory is being written out
	Suspended    State = "suspended"     // on disk, can be resumed
	Restarting   State = "restarting"    // stop, then start
	Updating     State = "updating"      // a new Config is being put in place
	Replacing    State = "replacing"     // a new version takes over
	Replaced     State = "replaced"      // of an old version, for ever
	Destroying   State = "destroying"    // being undone
	Destroyed    State = "destroyed"     // gone, for ever
	Failed       State = "failed"        // could not be started or stopped; can be tried again
	LaunchFailed State = "launch_failed" // the first launch can never succeed (no such image)
	Migrated     State = "migrated"      // lives on another host, for ever
)

// States lists every State.
func States() []State {
	return []State{Created, Starting, Started, Stopping, Stopped, Suspending, Suspended, Restarting, Updating, Replacing, Replaced,
		Destroying, Destroyed, Failed, LaunchFailed, Migrated}
}

// Move is one legal change of State.
type Move struct {
	From, To State
	Why      string // what causes it
}

// moves is the whole transition table of a Machine: the public diagrams (machine-states) and what a host's crash adds.
var moves = []Move{
	{Created, Starting, "start"}, {Created, Stopping, "stop"}, {Created, Updating, "update"}, {Created, Destroying, "destroy"},
	{Starting, Started, "success"}, {Starting, Failed, "error"}, {Starting, LaunchFailed, "unrecoverable"},
	{Starting, Stopping, "stop"}, {Starting, Destroying, "destroy"}, {Starting, Stopped, "ended at once"}, {Starting, Updating, "update"},
	{Started, Stopping, "stop"}, {Started, Stopped, "ended by itself"}, {Started, Suspending, "suspend"}, {Started, Restarting, "restart"},
	{Started, Updating, "update"}, {Started, Destroying, "destroy"}, {Started, Failed, "sandbox cannot be restored"}, {Started, Starting, "sandbox lost"},
	{Restarting, Starting, "begin"}, {Restarting, Destroying, "destroy"}, {Restarting, Failed, "error"},
	{Suspending, Suspended, "success"}, {Suspending, Started, "error"}, {Suspending, Destroying, "destroy"},
	{Suspended, Starting, "resume"}, {Suspended, Stopping, "stop"}, {Suspended, Updating, "update"}, {Suspended, Destroying, "destroy"},
	{Stopping, Stopped, "success"}, {Stopping, Failed, "error"}, {Stopping, Destroying, "destroy"},
	{Stopped, Starting, "start"}, {Stopped, Updating, "update"}, {Stopped, Destroying, "destroy"},
	{Failed, Starting, "start"}, {Failed, Stopping, "stop"}, {Failed, Updating, "update"}, {Failed, Destroying, "destroy"},
	{LaunchFailed, Destroying, "clean up"}, {LaunchFailed, Updating, "update"},
	{Updating, Starting, "auto-start"}, {Updating, Created, "no auto-start"}, {Updating, Stopped, "keep state"}, {Updating, Failed, "error"}, {Updating, Destroying, "destroy"},
	{Replacing, Replaced, "new version runs"}, {Replacing, Destroying, "destroy"},
	{Destroying, Destroyed, "success"},
}

// Moves returns the whole transition table.
func Moves() []Move { return slices.Clone(moves) }

// CanMove says whether a Machine may go from one State to another.
func CanMove(from, to State) bool {
	return slices.ContainsFunc(moves, func(m Move) bool { return m.From == from && m.To == to })
}

// Final says whether the State is never left.
func (s State) Final() bool { return s == Destroyed || s == Replaced || s == Migrated }

// Transient says whether the Machine is on its way to another State by itself.
func (s State) Transient() bool {
	switch s {
	case Starting, Stopping, Suspending, Restarting, Updating, Replacing, Destroying:
		return true
	case Created, Started, Stopped, Suspended, Replaced, Destroyed, Failed, LaunchFailed, Migrated:
		return false
	}
	panic(fmt.Sprintf("gondola: unknown state %q", s))
}

// ParseState reads a State; "settled" of wait is not one.
func ParseState(s string) (State, error) {
	if slices.Contains(States(), State(s)) {
		return State(s), nil
	}
	return "", Errorf(ErrInvalid, "state %q is not known", s)
}
