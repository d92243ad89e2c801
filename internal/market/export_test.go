package market

// Pure functions under test.
var (
	Rank         = rank
	ParseRegions = parseRegions
	Refusal      = refusal
	Shortlist    = shortlist
	Without      = without
)

// Offers are what workers said last of what they could take.
type Offers = offers
