package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"iked/internal/ident"
)

// field is one key: how it is written, how it is read, and what it means. The
// tables of fields serve the files, the control protocol and the reference.
type field[T any] struct {
	key  string
	typ  string // for people
	def  string // for people
	doc  string
	list bool
	// binary values may hold any octet.
	binary bool
	// fileOnly keys are added by this product and exist in files only.
	fileOnly bool
	set      setter[T]
}

type setter[T any] func(l *loader, t *T, it *Item) error

// loader reads one source.
type loader struct {
	dir    string // of the file, "" with the control protocol
	vici   bool
	inline bool // a secret stands in the file itself
	top    Pos  // of the file
	now    time.Time
	faults Faults
	// modes are those of the files that were read, as they were when read.
	modes map[string]fs.FileMode
	// psks are the shared secrets of the file.
	psks *PSKs
}

func (l *loader) add(pos Pos, err error) {
	f := &Fault{Pos: pos, Message: err.Error()}
	if v, ok := errors.AsType[*valueError](err); ok {
		f.Remedy = v.remedy
	}
	l.faults = append(l.faults, f)
}

func (l *loader) fault(pos Pos, remedy, format string, a ...any) {
	l.add(pos, refuse(remedy, format, a...))
}

func (l *loader) warn(pos Pos, remedy, format string, a ...any) {
	l.fault(pos, remedy, format, a...)
	l.faults[len(l.faults)-1].Warning = true
}

// unknownKey reports a key that no table has.
func (l *loader) unknownKey(it *Item, known []string) {
	remedy := "the keys here are " + strings.Join(known, ", ")
	if n := nearest(it.Key, known); n != "" {
		remedy = "did you mean " + n + "?"
	}
	l.fault(it.Pos, remedy, "unknown key %s", quote(it.Key))
	l.faults[len(l.faults)-1].unknown = true
}

func (l *loader) unknownSection(it *Item) {
	l.fault(it.Pos, "", "unknown section %s", quote(it.Key))
	l.faults[len(l.faults)-1].section = true
	l.faults[len(l.faults)-1].item = it.Key
}

// fill reads the items of a section through a table and returns which keys were
// given. sub takes the sections that it knows; extra are their names.
func fill[T any](l *loader, fields []field[T], t *T, tree *Tree, sub func(it *Item) bool, extra ...string) map[string]bool {
	given := map[string]bool{}
	known := func() []string {
		var k []string
		for _, f := range fields {
			if !l.vici || !f.fileOnly {
				k = append(k, f.key)
			}
		}
		return append(k, extra...)
	}
	for i := range tree.Items {
		it, before := &tree.Items[i], len(l.faults)
		if it.Kind == Section && sub != nil && sub(it) {
			continue
		}
		n := slices.IndexFunc(fields, func(f field[T]) bool { return f.key == it.Key && !(l.vici && f.fileOnly) })
		switch {
		case n < 0 && it.Kind == Section && l.vici:
			l.unknownSection(it)
		case n < 0:
			l.unknownKey(it, known())
		case !l.shape(it, fields[n].list):
		case l.vici && !fields[n].binary && !allPrintable(it):
			l.fault(it.Pos, "", "the value is not printable ASCII text")
		default:
			given[it.Key] = true
			if err := fields[n].set(l, t, it); err != nil {
				l.add(it.Pos, err)
			}
		}
		for _, f := range l.faults[before:] {
			f.item = it.Key
		}
	}
	return given
}

// shape holds an item against what the key takes. A file may write a list of one
// as a scalar; the control protocol may not.
func (l *loader) shape(it *Item, list bool) bool {
	switch {
	case it.Kind == Section && l.vici:
		l.unknownSection(it)
		return false
	case it.Kind == Section:
		l.fault(it.Pos, "", "expected a value, found a section")
		return false
	case list && it.Kind == KeyValue && !l.vici:
		it.List, it.lines, it.Kind = []string{it.Value}, []int{it.Pos.Line}, List
	case list != (it.Kind == List) && l.vici:
		l.fault(it.Pos, "", "expected a list or a value, found the other")
		l.faults[len(l.faults)-1].unknown = true
		return false
	case !list && it.Kind == List:
		l.fault(it.Pos, "", "expected one value, found a list")
		return false
	}
	return true
}

func allPrintable(it *Item) bool {
	for _, s := range append([]string{it.Value}, it.List...) {
		for i := range len(s) {
			if s[i] < 0x20 || s[i] > 0x7e {
				return false
			}
		}
	}
	return true
}

// each reads the elements of a list one by one; a refused one is reported at its
// own place.
func each[T any](one func(l *loader, t *T, s string) error) setter[T] {
	return func(l *loader, t *T, it *Item) error {
		for i, s := range it.List {
			if err := one(l, t, s); err != nil {
				l.add(it.element(i), err)
			}
		}
		return nil
	}
}

func (it *Item) element(i int) Pos {
	line := 0
	if i < len(it.lines) {
		line = it.lines[i]
	}
	return it.Pos.at(strconv.Itoa(i), line)
}

// value makes a setter of a parser and a place.
func value[T, V any](parse func(string) (V, error), at func(*T) *V) setter[T] {
	return func(_ *loader, t *T, it *Item) error {
		v, err := parse(it.Value)
		if err == nil {
			*at(t) = v
		}
		return err
	}
}

func boolean[T any](at func(*T) *bool) setter[T] { return value(parseBool, at) }

func duration[T any](at func(*T) *time.Duration) setter[T] { return value(ParseTime, at) }

// positive is a duration above zero.
func positive[T any](at func(*T) *time.Duration) setter[T] {
	return value(func(s string) (time.Duration, error) {
		d, err := ParseTime(s)
		if err == nil && d <= 0 {
			err = fmt.Errorf("expected a time above 0, found %s", quote(s))
		}
		return d, err
	}, at)
}

func sizeOf[T any](at func(*T) *uint64) setter[T] { return value(ParseBytes, at) }

func unsigned[T any, V uint8 | uint16 | uint32 | uint64](lo, hi uint64, at func(*T) *V) setter[T] {
	return value(func(s string) (V, error) {
		n, err := parseUint(s, 64)
		if err != nil || n < lo || n > hi {
			return 0, fmt.Errorf("expected a number from %d to %d, found %s", lo, hi, quote(s))
		}
		return V(n), nil
	}, at)
}

func integer[T any](lo, hi int, at func(*T) *int) setter[T] {
	return value(func(s string) (int, error) {
		n, err := parseUint(s, 31)
		if err != nil || int(n) < lo || int(n) > hi {
			return 0, fmt.Errorf("expected a number from %d to %d, found %s", lo, hi, quote(s))
		}
		return int(n), nil
	}, at)
}

// choice reads one of some words.
func choice[T any, V any](at func(*T) *V, words []string, values ...V) setter[T] {
	return value(func(s string) (V, error) {
		for i, w := range words {
			if strings.EqualFold(w, s) {
				return values[i], nil
			}
		}
		var zero V
		return zero, fmt.Errorf("expected one of %s, found %s", strings.Join(words, ", "), quote(s))
	}, at)
}

func identity[T any](at func(*T) *ident.ID) setter[T] { return value(ident.Parse, at) }

// unsupported takes a key that the field knows and that this version cannot
// honour, as long as it has one of the values that ask for nothing.
func unsupported[T any](harmless ...string) setter[T] {
	return func(_ *loader, _ *T, it *Item) error {
		if it.Kind == List && len(it.List) == 0 {
			return nil
		}
		if it.Kind == KeyValue {
			for _, h := range harmless {
				if strings.EqualFold(h, it.Value) || sameBool(h, it.Value) {
					return nil
				}
			}
		}
		remedy := "remove the key"
		if len(harmless) > 0 && harmless[0] != "" {
			remedy += " or set it to " + harmless[0]
		}
		return refuse(remedy, "not supported by this version: %s", it.Key)
	}
}

func sameBool(a, b string) bool {
	x, err1 := parseBool(a)
	y, err2 := parseBool(b)
	return err1 == nil && err2 == nil && x == y
}

// text takes any text.
func text[T any](at func(*T) *string) setter[T] {
	return value(func(s string) (string, error) { return s, nil }, at)
}

func address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("expected an address, found %s", quote(s))
	}
	return a.Unmap(), nil
}
