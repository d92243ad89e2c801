package pilot

import (
	"bufio"
	"bytes"
	"io"
)

// lineStart is where a line begins.
type lineStart struct {
	file   int
	offset int64
}

// skipToTail drops files, and the front of one, so that n whole lines of the wanted stream are left.
func (r *logReader) skipToTail(n int64) error {
	last := len(r.files) - 1
	if n <= 0 {
		return r.beginAt(lineStart{last, r.end})
	}
	for _, back := range []int64{64 << 10, 1 << 20} { // of a long log nearly always enough
		if starts, sure := r.tailStarts(lineStart{last, max(0, r.end-back)}, n); sure {
			return r.beginAt(starts[0])
		}
	}
	for first := last; ; first-- {
		starts, sure := r.tailStarts(lineStart{file: first}, n)
		switch {
		case !sure && first > 0:
		case len(starts) > 0:
			return r.beginAt(starts[0])
		default: // no line of the stream: nothing is left out
			return r.beginAt(lineStart{file: last})
		}
	}
}

// beginAt drops what comes before a line.
func (r *logReader) beginAt(begin lineStart) error {
	for _, f := range r.files[:begin.file] {
		f.Close()
	}
	r.files = r.files[begin.file:]
	_, err := r.files[0].Seek(begin.offset, io.SeekStart) // the others stand at their begin
	return err
}

// tailStarts returns where the last n lines of the wanted stream begin, of those that begin at from or later, and whether these are surely the
// last n of the log. A line ends with an F; pieces before it are part of it.
func (r *logReader) tailStarts(from lineStart, n int64) (starts []lineStart, sure bool) {
	var ring []lineStart
	var total, unsure int64     // lines that were seen; of them the first so many
	inside := map[string]bool{} // stream → whether it is inside a line
	for i := from.file; i < len(r.files); i++ {
		at, end := int64(0), int64(1<<62)
		if i == from.file {
			at = from.offset
		}
		if i == len(r.files)-1 {
			end = r.end
		}
		in := bufio.NewReaderSize(io.NewSectionReader(r.files[i], at, end-at), 64<<10)
		for cut := at > 0; ; cut = false { // what is in the middle of a file begins with the rest of a stored line
			raw, err := in.ReadBytes('\n')
			if err != nil {
				break
			}
			line, ok := parseLogLine(bytes.TrimSuffix(raw, []byte("\n")))
			if ok && !cut && (r.opts.Stream == "" || line.stream == r.opts.Stream) {
				goesOn, seen := inside[line.stream]
				if !goesOn {
					start := lineStart{i, at}
					if int64(len(ring)) < n {
						ring = append(ring, start)
					} else {
						ring[total%n] = start
					}
					total++
				}
				if !seen { // it may be the rest of a line that began before from
					unsure = total
				}
				inside[line.stream] = line.partial
			}
			at += int64(len(raw))
		}
	}
	if total <= n {
		return ring, false
	}
	return append(append([]lineStart{}, ring[total%n:]...), ring[:total%n]...), total-n >= unsure
}
