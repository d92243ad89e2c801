package gondola

import "time"

// IsSchedule says whether it is one of hourly, daily, weekly and monthly.
func IsSchedule(s string) bool {
	_, ok := period(s, time.Time{})
	return ok
}

// NextRun returns when a Machine with this schedule is to be started the next time: as many periods after it was last due as it takes to be
// later than now, so that what was missed is not made up for more than once and the phase stays. The zero time without a schedule. Pure.
func NextRun(schedule string, due, now time.Time) time.Time {
	at, ok := period(schedule, due)
	if !ok {
		return time.Time{}
	}
	for !at.After(now) {
		at, _ = period(schedule, at)
	}
	return at
}

// period returns the time one period later. A month is the calendar's.
func period(schedule string, at time.Time) (time.Time, bool) {
	switch schedule {
	case "hourly":
		return at.Add(time.Hour), true
	case "daily":
		return at.AddDate(0, 0, 1), true
	case "weekly":
		return at.AddDate(0, 0, 7), true
	case "monthly":
		return at.AddDate(0, 1, 0), true
	}
	return time.Time{}, false
}
