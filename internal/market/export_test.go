package market

// Pure functions under test.
var (
	Rank         = rank
	ParseRegions = parseRegions
	Refusal      = refusal
)
