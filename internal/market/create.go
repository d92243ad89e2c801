package market

import (
	"context"
	"errors"
	"slices"
	"time"

	"gondola"
	"gondola/internal/store"
)

// Create implements gondola.Machines. The row of the Machine is written before the worker hears of it, so that doing it again by the same
// name reaches the same worker with the same id. A worker's refusal moves the row to the next Bid in hand; silence never does. Of those that ask by one
// name or id at the same time each waits for the one before, at most until its ctx ends: there is one row for all of them.
func (m *Market) Create(ctx context.Context, app gondola.AppName, req gondola.CreateRequest) (gondola.Machine, error) {
	unlock, err := m.locks.use(ctx, lockOf(app))
	if err != nil {
		return gondola.Machine{}, err
	}
	defer unlock()
	of, err := m.index.App(ctx, app)
	if err != nil {
		return gondola.Machine{}, err
	}
	if err := req.Config.Validate(); err != nil {
		return gondola.Machine{}, err
	}
	for _, what := range locksOf(app, req) {
		unlock, err := m.locks.alone(ctx, what)
		if err != nil {
			return gondola.Machine{}, err
		}
		defer unlock()
	}
	if err := m.withSecrets(ctx, app, &req); err != nil {
		return gondola.Machine{}, err
	}
	p := &purchase{m: m, app: of, req: req, begin: time.Now()}
	p.ws, _ = m.current()
	if p.wanted, err = parseRegions(req.Region, regionsOf(p.ws)); err != nil {
		return gondola.Machine{}, err
	}
	p.ask.Requests, _ = req.Config.Requests()
	p.ask.Image = req.Config.AllContainers()[0].Image
	if req.Config.Gondola != nil {
		p.ask.Driver = req.Config.Gondola.Driver
	}
	e, found, err := p.existing(ctx)
	if err != nil {
		return gondola.Machine{}, err
	}
	if found {
		return p.again(ctx, e)
	}
	ctx, end := p.watch(ctx)
	mach, err := p.buy(ctx)
	end(mach, err)
	return mach, err
}

// eligible are the workers that may take it: those of the wanted regions, or the one that has the Volumes it mounts.
func (p *purchase) eligible(ctx context.Context) ([]Worker, error) {
	ws, err := p.m.bind(ctx, p.app.Name, &p.req.Config, in(p.ws, p.wanted))
	p.ask.Volumes = boundTo(&p.req.Config)
	return ws, err
}

// purchase is one Create on its way.
type purchase struct {
	m      *Market
	app    gondola.App
	req    gondola.CreateRequest
	ws     []Worker
	wanted map[gondola.Region]int
	ask    gondola.Ask
	begin  time.Time
	left   []Worker // eligible, until all have been asked
	asked  []Worker // those of them that have been
}

// existing returns the row that the request's id or name has already.
func (p *purchase) existing(ctx context.Context) (e store.Entry, found bool, err error) {
	switch {
	case p.req.Gondola != nil && p.req.Gondola.ID != "":
		e, err = p.m.index.Lookup(ctx, p.app.Name, p.req.Gondola.ID)
	case p.req.Name != "":
		e, err = p.m.index.LookupName(ctx, p.app.Name, p.req.Name)
	default:
		return e, false, nil
	}
	if errors.Is(err, gondola.ErrNotFound) {
		return e, false, nil
	}
	return e, err == nil, err
}

// again goes to the worker that has, or was to have, the Machine of this name. Only that one can tell whether it is the same.
func (p *purchase) again(ctx context.Context, e store.Entry) (gondola.Machine, error) {
	w, err := p.m.worker(e.Worker)
	if err != nil {
		return gondola.Machine{}, err
	}
	if p.m.removeIfGone(ctx, w, gondola.Ref{App: e.App, ID: e.ID}) {
		if p.req.Gondola != nil && p.req.Gondola.ID != "" {
			return gondola.Machine{}, gondola.Errorf(gondola.ErrConflict, "machine %s has been destroyed: its id cannot be used again", e.ID)
		}
		return p.buy(ctx)
	}
	mach, err := p.send(ctx, w, e)
	if byName := p.req.Gondola == nil || p.req.Gondola.ID == ""; byName && errors.Is(err, gondola.ErrConflict) {
		return mach, gondola.Errorf(gondola.ErrNameTaken, "name %q has already been taken in app %s, by machine %s with another config: update that, or choose another name",
			e.Name, e.App, e.ID)
	}
	if !refusedForSure(err) {
		return mach, err
	}
	// It never came to be, and its worker says that it shall not: the row may move.
	return p.sell(ctx, e, err)
}

// auction asks the most promising of those that may take it and, if none of them bids, the others: in all within the deadline.
func (p *purchase) auction(ctx context.Context) (gondola.Auction, error) {
	var err error
	if p.left, err = p.eligible(ctx); err != nil {
		return gondola.Auction{}, err
	}
	if p.asked = p.m.shortlist(p.left, p.ask, p.wanted); len(p.asked) == 0 {
		return p.others(ctx, p.m.deadline)
	}
	a, err := p.m.auction(ctx, p.asked, p.ask, p.wanted, p.m.deadline/2)
	if err != nil || len(a.Bids) > 0 {
		return a, err
	}
	b, err := p.others(ctx, p.m.deadline/2)
	b.Refusals = append(a.Refusals, b.Refusals...)
	return b, err
}

// others asks those that have not been asked yet.
func (p *purchase) others(ctx context.Context, within time.Duration) (gondola.Auction, error) {
	ws := without(p.left, p.asked)
	p.left = nil
	return p.m.auction(ctx, ws, p.ask, p.wanted, within)
}

// buy holds the auction and reserves the row for a Machine that nobody has heard of.
func (p *purchase) buy(ctx context.Context) (gondola.Machine, error) {
	a, err := p.auction(ctx)
	if err != nil {
		return gondola.Machine{}, err
	}
	if len(a.Bids) == 0 {
		return gondola.Machine{}, p.refusal(ctx, a.Refusals)
	}
	id := gondola.NewMachineID()
	if x := p.req.Gondola; x != nil && x.ID != "" {
		id = x.ID
	}
	for {
		name := p.req.Name
		if name == "" {
			name = gondola.NewMachineName()
		}
		e, fresh, err := p.m.index.Reserve(ctx, p.app.Name, name, id, a.Bids[0].Worker)
		switch {
		case err != nil:
			return gondola.Machine{}, err
		case fresh:
			return p.offer(ctx, e, a.Bids, a.Refusals)
		case p.req.Name != "" || e.ID == id:
			return p.again(ctx, e) // it was under another name or id, or its worker was read meanwhile
		}
		// A made-up name that is there already: make up another.
	}
}

// sell finds another place for a row whose worker refused.
func (p *purchase) sell(ctx context.Context, e store.Entry, refused error) (gondola.Machine, error) {
	a, err := p.auction(ctx)
	if err != nil {
		return gondola.Machine{}, err
	}
	bids := slices.DeleteFunc(a.Bids, func(b gondola.Bid) bool { return b.Worker == e.Worker })
	refusals := a.Refusals
	if len(bids) < len(a.Bids) { // it bids by now, but has just refused
		refusals = append(refusals, gondola.Refusals(refused)...)
	}
	return p.offer(ctx, e, bids, refusals)
}

// offer tries the Bids in hand, one after the other, until a worker takes the Machine, and then those of the workers that were not asked before.
func (p *purchase) offer(ctx context.Context, e store.Entry, bids []gondola.Bid, refusals []gondola.Refusal) (gondola.Machine, error) {
	for {
		if len(bids) == 0 && len(p.left) > 0 {
			a, err := p.others(ctx, p.m.deadline/2)
			if err != nil {
				p.forget(ctx, e)
				return gondola.Machine{}, err
			}
			bids, refusals = a.Bids, append(refusals, a.Refusals...)
		}
		if len(bids) == 0 {
			p.forget(ctx, e)
			return gondola.Machine{}, p.refusal(ctx, refusals)
		}
		b := bids[0]
		bids = bids[1:]
		w, err := p.m.worker(b.Worker)
		if err != nil {
			continue // it has left since it bid
		}
		if e.Worker != b.Worker {
			moved, err := p.m.index.Move(ctx, e.ID, e.Worker, b.Worker)
			if err != nil {
				return gondola.Machine{}, err
			}
			if !moved { // its worker was read meanwhile, and does not have it
				return gondola.Machine{}, gondola.Errorf(gondola.ErrConflict, "machine %s was taken out of the index while a place for it was looked for: ask again", e.ID)
			}
			e.Worker = b.Worker
		}
		mach, err := p.send(ctx, w, e)
		switch {
		case err == nil:
			return mach, nil
		case refusedForSure(err):
			refusals = append(refusals, gondola.Refusals(err)...)
		case mayExist(err):
			return gondola.Machine{}, err
		default:
			p.forget(ctx, e)
			return gondola.Machine{}, err
		}
	}
}

// forget drops the row of a Machine that no worker has. It must not depend on a caller's patience.
func (p *purchase) forget(ctx context.Context, e store.Entry) {
	if err := p.m.index.Forget(context.WithoutCancel(ctx), e.ID, e.Worker); err != nil {
		p.m.log.Warn("the row of a machine that was refused stays until its worker is read again", "machine", e.ID, "err", err)
	}
}

// send asks a worker to create the Machine of a row.
func (p *purchase) send(ctx context.Context, w Worker, e store.Entry) (gondola.Machine, error) {
	req := p.req
	x := gondola.CreateExtension{}
	if req.Gondola != nil {
		x = *req.Gondola
	}
	x.ID, x.Network, x.NetworkID = e.ID, p.app.Network, p.app.NetworkID
	req.Gondola, req.Name, req.Region = &x, e.Name, string(w.Region)
	mach, err := w.Create(ctx, p.app.Name, req)
	if err == nil && mach.ID != e.ID {
		return mach, p.adopt(ctx, w, e, mach)
	}
	if err != nil && mayExist(err) && p.req.Name != "" {
		kind := gondola.ErrUnavailable
		if errors.Is(err, gondola.ErrDeadline) {
			kind = gondola.ErrDeadline
		}
		err = gondola.Errorf(kind, "worker %s: %w; machine %s may exist: ask again with the same name", w.Name, err, e.Name)
	}
	return mach, err
}

// adopt corrects a row after the worker answered with a Machine of that name that it had already: the index had forgotten it.
func (p *purchase) adopt(ctx context.Context, w Worker, e store.Entry, mach gondola.Machine) error {
	p.forget(ctx, e)
	_, _, err := p.m.index.Reserve(context.WithoutCancel(ctx), p.app.Name, mach.Name, mach.ID, w.Name)
	return err
}

// refusal is the error of a purchase that nobody takes.
func (p *purchase) refusal(ctx context.Context, refusals []gondola.Refusal) error {
	if len(p.ask.Volumes) > 0 { // nobody else can take it: Fly.io's words and kind for that
		why := ""
		for _, r := range refusals {
			why += "; worker " + string(r.Worker) + ": " + r.Reason
		}
		return &gondola.Error{Kind: gondola.ErrPrecondition, Refusals: refusals,
			Message: "insufficient resources to create new machine with existing volume '" + string(p.ask.Volumes[0]) + "'" + why}
	}
	left := p.m.deadline - time.Since(p.begin)
	others := p.m.elsewhere(ctx, p.ws, p.ask, p.wanted, max(left, p.m.deadline/5))
	return refusal(p.wanted, p.ask.Requests, refusals, others)
}
