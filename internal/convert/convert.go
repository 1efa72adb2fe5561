// Package convert reads the configurations of other IPsec systems, racoon.conf of
// racoon and setkey.conf of setkey, and says the same in the keys of package conf.
// It is pure: files come from its caller, and what has keys goes back to it apart
// from what is printed.
package convert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"iked/internal/secret"
)

// Bounds of what is read.
const (
	MaxFile   = 1 << 20 // octets of one file
	maxFiles  = 64      // files with all that are included
	maxDepth  = 10      // files that include files
	maxBlocks = 8       // blocks in blocks
	maxTokens = 200_000 // of all files
	maxStated = 20_000  // statements of all files
	maxNotes  = 1_000
	maxSize   = 4 << 20 // octets of all files
	maxOutput = 5_000   // children, so that pairing has an end
)

// Source is a file with its name, which messages show.
type Source struct {
	Name string
	Data []byte
}

// Input is what is converted.
type Input struct {
	Files []Source
	// Include reads the files that a statement include in the file from names; the
	// pattern is as it is written. Nil: nothing is included.
	Include func(from, pattern string) ([]Source, error)
	// PSK reads the file of pre-shared keys. Nil: no keys are converted.
	PSK func(from, name string) (Source, error)
	// SecretsDir is how the output refers to the directory of the key files.
	SecretsDir string
}

// KeyFile holds key material for a file that only its owner may read.
type KeyFile struct {
	Name string // without directory
	Data secret.Bytes
}

// Note is one sentence about something that is not as it was.
type Note struct {
	File   string
	Line   int
	What   string // the construct
	Advice string // what it means here, and what to do
	// Insecure: what it asked for was left out, so that traffic may go in clear or with
	// less protection.
	Insecure bool
}

func (n Note) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", n.File, n.Line, n.What, n.Advice)
}

// Result is what became of the input.
type Result struct {
	doc      section
	Commands []string // of ikectl, for what is keyed by hand
	Keys     []KeyFile
	Notes    []Note
}

// Insecure tells whether something that protects traffic was left out.
func (r *Result) Insecure() bool {
	return slices.ContainsFunc(r.Notes, func(n Note) bool { return n.Insecure })
}

// converter has what was read of all files, and what is made of it.
type converter struct {
	in  Input
	res Result

	files, octets, tokens, stated int

	paths    map[string]string
	pskFrom  stmt
	remotes  []*remote
	sainfos  []*sainfo
	policies []*policy
	adds     []*staticSA
	listen   []string
	pool     section
	racoon   bool           // a racoon.conf is among the files
	names    map[string]int // the number that the next of that name gets
	children int
	said     map[Note]bool
	peers    map[string]bool // identities whose secrets are needed
	conns    []*connection
}

// Convert reads racoon.conf and setkey.conf, each perhaps in several files; a file
// is known by its first word. An error is one of the syntax, with file and line.
func Convert(in Input) (*Result, error) {
	c := &converter{in: in, paths: map[string]string{}, names: map[string]int{}, said: map[Note]bool{}, peers: map[string]bool{}}
	for _, f := range in.Files {
		toks, err := c.lex(f)
		if err != nil {
			return nil, err
		}
		if isSetkey(toks) {
			err = c.setkey(f.Name, toks)
		} else {
			c.racoon = true
			var list []stmt
			if list, err = c.statements(f, toks, 0); err == nil {
				err = c.readRacoon(list)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	c.build()
	slices.SortStableFunc(c.res.Notes, func(a, b Note) int { return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line) })
	return &c.res, nil
}

// note says what is different, at most maxNotes times.
func (c *converter) note(s stmt, insecure bool, advice string, args ...any) {
	n := Note{s.file, s.line, s.text(), fmt.Sprintf(advice, args...), insecure}
	if c.said[n] {
		return // a remote that many peers have is read for each
	}
	c.said[n] = true
	if len(c.res.Notes) < maxNotes {
		c.res.Notes = append(c.res.Notes, n)
	} else if insecure && !c.res.Insecure() {
		c.res.Notes[maxNotes-1] = n
	}
}

// unique is a name of a connection or child that is not taken.
func (c *converter) unique(scope, base string) string {
	base = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, base)
	if base == "" {
		base = "unnamed"
	}
	base = base[:min(len(base), 60)]
	key := scope + "/" + base
	for {
		n := c.names[key]
		c.names[key] = n + 1
		if n == 0 {
			return base
		}
		if name := fmt.Sprintf("%s-%d", base, n+1); c.names[scope+"/"+name] == 0 {
			c.names[scope+"/"+name] = 1
			return name
		}
	}
}
