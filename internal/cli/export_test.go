package cli

// Refused returns the flags that are refused by name.
func Refused() (names []string) {
	for name := range refusals {
		names = append(names, name)
	}
	return names
}
