package market

import (
	"fmt"
	"slices"
	"strings"

	"gondola"
)

// known are Fly.io's regions (autumn 2026), for names, places and aliases.
var known = []gondola.RegionInfo{
	{Code: "ams", Name: "Amsterdam, Netherlands", Latitude: 52.37, Longitude: 4.9, GeoRegion: "europe"},
	{Code: "arn", Name: "Stockholm, Sweden", Latitude: 59.65, Longitude: 17.92, GeoRegion: "europe"},
	{Code: "bom", Name: "Mumbai, India", Latitude: 19.09, Longitude: 72.87, GeoRegion: "asia_pacific"},
	{Code: "cdg", Name: "Paris, France", Latitude: 48.86, Longitude: 2.35, GeoRegion: "europe"},
	{Code: "dfw", Name: "Dallas, Texas (US)", Latitude: 32.78, Longitude: -96.8, GeoRegion: "north_america"},
	{Code: "ewr", Name: "Secaucus, NJ (US)", Latitude: 40.79, Longitude: -74.06, GeoRegion: "north_america"},
	{Code: "fra", Name: "Frankfurt, Germany", Latitude: 50.11, Longitude: 8.68, GeoRegion: "europe"},
	{Code: "gru", Name: "Sao Paulo, Brazil", Latitude: -23.55, Longitude: -46.63, GeoRegion: "south_america"},
	{Code: "iad", Name: "Ashburn, Virginia (US)", Latitude: 39.04, Longitude: -77.49, GeoRegion: "north_america"},
	{Code: "jnb", Name: "Johannesburg, South Africa", Latitude: -26.2, Longitude: 28.05, GeoRegion: "africa"},
	{Code: "lax", Name: "Los Angeles, California (US)", Latitude: 34.05, Longitude: -118.24, GeoRegion: "north_america"},
	{Code: "lhr", Name: "London, United Kingdom", Latitude: 51.51, Longitude: -0.13, GeoRegion: "europe"},
	{Code: "nrt", Name: "Tokyo, Japan", Latitude: 35.68, Longitude: 139.65, GeoRegion: "asia_pacific"},
	{Code: "ord", Name: "Chicago, Illinois (US)", Latitude: 41.88, Longitude: -87.63, GeoRegion: "north_america"},
	{Code: "sin", Name: "Singapore, Singapore", Latitude: 1.35, Longitude: 103.82, GeoRegion: "asia_pacific"},
	{Code: "sjc", Name: "San Jose, California (US)", Latitude: 37.34, Longitude: -121.89, GeoRegion: "north_america"},
	{Code: "syd", Name: "Sydney, Australia", Latitude: -33.87, Longitude: 151.21, GeoRegion: "asia_pacific"},
	{Code: "yyz", Name: "Toronto, Canada", Latitude: 43.65, Longitude: -79.38, GeoRegion: "north_america"},
}

// info describes a region; one that Fly.io does not have is called by its code.
func info(code gondola.Region) gondola.RegionInfo {
	if i := slices.IndexFunc(known, func(r gondola.RegionInfo) bool { return r.Code == code }); i >= 0 {
		return known[i]
	}
	return gondola.RegionInfo{Code: code, Name: string(code)}
}

// aliases are the words for several regions of which none is preferred.
var aliases = map[string]func(gondola.RegionInfo) bool{
	"any":  func(gondola.RegionInfo) bool { return true },
	"eu":   func(r gondola.RegionInfo) bool { return r.GeoRegion == "europe" },
	"na":   func(r gondola.RegionInfo) bool { return r.GeoRegion == "north_america" },
	"sa":   func(r gondola.RegionInfo) bool { return r.GeoRegion == "south_america" },
	"apac": func(r gondola.RegionInfo) bool { return r.GeoRegion == "asia_pacific" },
	"us":   inUS,
	"usa":  inUS,
}

func inUS(r gondola.RegionInfo) bool { return strings.HasSuffix(r.Name, "(US)") }

// parseRegions reads an expression: a code, an alias, or a comma list of these in order of preference; the empty one is "any". It returns
// where Machines may go, out of those there are, each with its place in the order (equal places: none is preferred). A code that is not there
// is ErrNotFound and names those that are; so is an expression that leaves none. Pure.
func parseRegions(expr string, there []gondola.Region) (map[gondola.Region]int, error) {
	if strings.TrimSpace(expr) == "" {
		expr = "any"
	}
	order := map[gondola.Region]int{}
	place := 0
	for word := range strings.SplitSeq(expr, ",") {
		if word = strings.ToLower(strings.TrimSpace(word)); word == "" {
			continue
		}
		place++
		matches, alias := aliases[word]
		if !alias || slices.Contains(there, gondola.Region(word)) {
			if !slices.Contains(there, gondola.Region(word)) {
				return nil, unknownRegion(word, there)
			}
			matches = func(r gondola.RegionInfo) bool { return string(r.Code) == word }
		}
		for _, r := range there {
			if _, earlier := order[r]; !earlier && matches(info(r)) {
				order[r] = place
			}
		}
	}
	if len(order) == 0 {
		return nil, unknownRegion(expr, there)
	}
	return order, nil
}

func unknownRegion(word string, there []gondola.Region) error {
	if len(there) == 0 {
		return gondola.Errorf(gondola.ErrNotFound, "region %q: this platform has no workers yet", word)
	}
	return gondola.Errorf(gondola.ErrNotFound, "region %q has no workers; there is %s", word, listRegions(there))
}

// listRegions prints "ams", "ams and gru", "ams, fra and gru".
func listRegions(regions []gondola.Region) string {
	words := make([]string, len(regions))
	for i, r := range regions {
		words[i] = string(r)
	}
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// refusal is the error of an auction that nobody won. elsewhere are regions that were not asked for and would have taken it. Pure.
func refusal(wanted map[gondola.Region]int, want gondola.Resources, refusals []gondola.Refusal, elsewhere []gondola.Region) error {
	regions := inOrder(wanted)
	other := ""
	for _, r := range refusals {
		// Room alone was not the matter: the first such reason tells more than the size does.
		if r.Reason != "" && (want.Fits(r.Free) || r.Capacity == (gondola.Resources{})) {
			other = fmt.Sprintf(" (%s: %s)", r.Worker, r.Reason)
			break
		}
	}
	text := fmt.Sprintf("no worker in %s has %s free%s", strings.ReplaceAll(listRegions(regions), " and ", " or "), want, other)
	switch {
	case len(elsewhere) == 1:
		text += "; " + string(elsewhere[0]) + " has"
	case len(elsewhere) > 1:
		text += "; " + listRegions(elsewhere) + " have"
	}
	return &gondola.Error{Kind: gondola.ErrCapacity, Message: text, Refusals: refusals}
}

// inOrder lists regions by their place, then by name.
func inOrder(order map[gondola.Region]int) []gondola.Region {
	regions := make([]gondola.Region, 0, len(order))
	for r := range order {
		regions = append(regions, r)
	}
	slices.SortFunc(regions, func(a, b gondola.Region) int {
		if d := order[a] - order[b]; d != 0 {
			return d
		}
		return strings.Compare(string(a), string(b))
	})
	return regions
}
