package guard

import (
	"strings"

	"github.com/google/nftables"
)

// flushError says once what the kernel says of every part of a change.
type flushError struct {
	error
	text string
}

func (e *flushError) Error() string { return e.text }
func (e *flushError) Unwrap() error { return e.error }

// flush carries out what was prepared.
func flush(c *nftables.Conn) error { return once(c.Flush()) }

func once(err error) error {
	if err == nil {
		return nil
	}
	var list []string
	seen := map[string]bool{}
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" && !seen[line] {
			seen[line] = true
			list = append(list, line)
		}
	}
	return &flushError{err, strings.Join(list, "; ")}
}
