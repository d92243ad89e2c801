package worker

import (
	"sync"

	"gondola"
)

const (
	maxNumber      = 4093          // the largest number of a Machine: a worker has a /20 of IPv4 addresses
	leftoverNumber = maxNumber + 1 // for what a crash left of a Machine whose number is not known
)

// ledger says what Machines hold of the worker: amounts and numbers. What is in it is on record, or about to be.
type ledger struct {
	capacity gondola.Resources

	mu      sync.Mutex
	held    map[gondola.MachineID]gondola.Resources
	used    gondola.Resources
	numbers map[uint16]gondola.MachineID
	next    uint16 // where the search for a free number begins, so that one is not reused at once
}

func newLedger(capacity gondola.Resources) *ledger {
	return &ledger{capacity: capacity, held: map[gondola.MachineID]gondola.Resources{}, numbers: map[uint16]gondola.MachineID{}, next: 1}
}

// restore books what is on record, whether it fits or not.
func (l *ledger) restore(id gondola.MachineID, number uint16, r gondola.Resources) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(id, r)
	if number != 0 {
		l.numbers[number] = id
	}
}

func (l *ledger) setLocked(id gondola.MachineID, r gondola.Resources) {
	l.used = l.used.Sub(l.held[id]).Add(r)
	if r == (gondola.Resources{}) {
		delete(l.held, id)
	} else {
		l.held[id] = r
	}
}

// take makes a Machine hold r in place of what it holds, if that fits; free is what there is without it. What it holds already it may keep,
// even where the worker's capacity has shrunk.
func (l *ledger) take(id gondola.MachineID, r gondola.Resources) (free gondola.Resources, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	free = l.capacity.Sub(l.used).Add(l.held[id])
	if !r.Fits(free) && !r.Fits(l.held[id]) {
		return free, false
	}
	l.setLocked(id, r)
	return free, true
}

// set makes a Machine hold r, which is not more than before.
func (l *ledger) set(id gondola.MachineID, r gondola.Resources) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(id, r)
}

// holds returns what a Machine holds.
func (l *ledger) holds(id gondola.MachineID) gondola.Resources {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id]
}

// memory returns the bytes of memory that Machines hold.
func (l *ledger) memory() map[gondola.MachineID]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[gondola.MachineID]int64, len(l.held))
	for id, r := range l.held {
		out[id] = r.MemoryBytes
	}
	return out
}

// number gives a Machine a free number, zero if there is none.
func (l *ledger) number(id gondola.MachineID) uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range maxNumber {
		n := l.next
		if l.next++; l.next > maxNumber {
			l.next = 1
		}
		if _, taken := l.numbers[n]; !taken {
			l.numbers[n] = id
			return n
		}
	}
	return 0
}

// release gives back all that a Machine holds, its number too.
func (l *ledger) release(id gondola.MachineID, number uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(id, gondola.Resources{})
	if l.numbers[number] == id {
		delete(l.numbers, number)
	}
}

// free says what is left: resources and numbers.
func (l *ledger) free() (gondola.Resources, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.capacity.Sub(l.used), maxNumber - len(l.numbers)
}
