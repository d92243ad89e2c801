package pilot

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
)

// envFileLimit is how much of a file of variables is read.
const envFileLimit = 1 << 20

// fromFile reads the value of a variable that a file in one of the Machine's volumes defines; found is false if the file does not define it, or as
// nothing. What containers put in the place of the file leads out of the volume no more than a mount of a part of it, and keeps nobody waiting.
func fromFile(spec *Spec, f *gondola.EnvFile) (value string, found bool, err error) {
	i := slices.IndexFunc(spec.Volumes, func(v Volume) bool { return v.Name == f.Volume })
	if i < 0 || volumeDir(*spec, spec.Volumes[i]) == "" {
		return "", false, gondola.Errorf(gondola.ErrPrecondition, "cannot find the volume %q of a variable's file", f.Volume)
	}
	text, err := readIn(volumeDir(*spec, spec.Volumes[i]), f.Path)
	if err == nil {
		value, err = envOf(text, f.Key)
	}
	if err != nil {
		return "", false, gondola.Errorf(gondola.ErrPrecondition, "file %s of volume %s: %w", f.Path, f.Volume, err)
	}
	return value, value != "", nil
}

func readIn(dir, path string) (string, error) {
	f, err := openRegular(dir, path, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.EXDEV) {
		return "", errors.New("path escapes from the volume")
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, envFileLimit+1))
	if len(data) > envFileLimit {
		return "", fmt.Errorf("it has more than %d bytes", envFileLimit)
	}
	return string(data), err
}

// envOf returns the first value of a name in a file of lines NAME='value', as a kubelet reads them (KEP-3721): a value is in single quotes and may
// have several lines; behind it there may be a comment; NAME= and a blank is an empty value. Lines that are empty or begin with # are none.
func envOf(text, name string) (string, error) {
	lines := strings.Split(text, "\n")
	for n := 0; n < len(lines); n++ {
		line := strings.TrimLeft(strings.TrimSuffix(lines[n], "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		switch {
		case !ok:
			return "", fmt.Errorf("line %d has no =", n+1)
		case key == "" || strings.TrimRight(key, " \t") != key:
			return "", fmt.Errorf("line %d: a name, and no blank, has to stand before =", n+1)
		case strings.HasPrefix(value, " ") || strings.HasPrefix(value, "\t"):
			if key == name {
				return "", nil
			}
			continue
		case !strings.HasPrefix(value, "'"):
			return "", fmt.Errorf("line %d: a value has to be in single quotes", n+1)
		}
		first := n
		whole, rest, ended := strings.Cut(value[1:], "'")
		for !ended {
			if n++; n == len(lines) {
				return "", fmt.Errorf("line %d: the single quote does not end", first+1)
			}
			var more string
			more, rest, ended = strings.Cut(strings.TrimSuffix(lines[n], "\r"), "'")
			whole += "\n" + more
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != '#' {
			return "", fmt.Errorf("line %d: only a comment may stand behind a value", n+1)
		}
		if key == name {
			return whole, nil
		}
	}
	return "", nil
}
