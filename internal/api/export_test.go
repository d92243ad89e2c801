package api

// RouteTable returns method and path of every route.
func RouteTable() (routes [][2]string) {
	for _, r := range new(API).routes() {
		routes = append(routes, [2]string{r.method, r.path})
	}
	return routes
}

// Operations returns what operations.go describes, "METHOD path".
func Operations() (names []string) {
	for name := range operations() {
		names = append(names, name)
	}
	return names
}

// Words is the splitting of a command line.
var Words = words
