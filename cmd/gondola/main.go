// Command gondola is the whole platform in one binary.
package main

func main() {}
