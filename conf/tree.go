package conf

import (
	"fmt"
	"strconv"
	"strings"
)

// Tree is a section as the control protocol and the files both have it: ordered
// key/values, lists and sections.
type Tree struct {
	Name  string
	Items []Item
	Pos   Pos
}

// ItemKind is what an Item is.
type ItemKind uint8

// Kinds.
const (
	KeyValue ItemKind = iota
	List
	Section
)

// Item is an element of a section.
type Item struct {
	Kind  ItemKind
	Key   string
	Value string   // of a KeyValue; may be binary
	List  []string // of a List; may be binary
	Tree  *Tree    // of a Section
	Pos   Pos
	// lines of the list elements, when known
	lines []int
	// notText: the file format takes the scalar for something else than text, as
	// a YAML number.
	notText bool
}

// Fault is something wrong in a configuration.
type Fault struct {
	Pos
	Message string
	// Remedy says what to do.
	Remedy string
	// Warning: the configuration can be used.
	Warning bool
	// unknown: the key is not known; the control protocol words that differently.
	unknown bool
	// section: the name of a section is not known.
	section bool
	// item is the key alone, exact a whole sentence for the control protocol.
	item, exact string
}

// Error implements error: "file:line: key: message; remedy".
func (f *Fault) Error() string { return f.String() }

// String is "file:line: key: message; remedy".
func (f *Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			b.WriteString(":" + strconv.Itoa(f.Line))
		}
		b.WriteString(": ")
	}
	if f.Warning {
		b.WriteString("warning: ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Message)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// Faults is all that was found, in the order of the file.
type Faults []*Fault

// Failed tells whether one of them is more than a warning.
func (fs Faults) Failed() bool {
	for _, f := range fs {
		if !f.Warning {
			return true
		}
	}
	return false
}

// Err is nil unless Failed.
func (fs Faults) Err() error {
	if !fs.Failed() {
		return nil
	}
	return fs
}

// Error implements error: one fault a line.
func (fs Faults) Error() string {
	var b strings.Builder
	for i, f := range fs {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.String())
	}
	return b.String()
}

// sub is the position of a key below.
func (p Pos) sub(key string, line int) Pos {
	if line == 0 && p.lines != nil {
		line = p.lines.of[key]
	}
	if p.Key != "" {
		key = p.Key + "." + key
	}
	if line == 0 {
		line = p.Line
	}
	return Pos{File: p.File, Line: line, Key: key}
}

// at is the position of a list element or of a named thing.
func (p Pos) at(index string, line int) Pos {
	if line == 0 {
		line = p.Line
	}
	return Pos{File: p.File, Line: line, Key: fmt.Sprintf("%s[%s]", p.Key, index)}
}

// valueError is a refused value with what to do about it.
type valueError struct{ message, remedy string }

func (e *valueError) Error() string { return e.message }

func refuse(remedy, format string, a ...any) error {
	return &valueError{message: fmt.Sprintf(format, a...), remedy: remedy}
}
