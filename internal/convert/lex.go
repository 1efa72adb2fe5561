package convert

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// token is a word, a quoted string, or one of { } ; and the comma. A part in
// brackets, as [500], is a word of its own.
type token struct {
	text   string
	quoted bool
	// glued: nothing stands between it and the token before.
	glued bool
	line  int
}

func (t token) is(s string) bool { return !t.quoted && t.text == s }

// lex cuts a file into tokens.
func (c *converter) lex(f Source) ([]token, error) {
	c.files++
	c.octets += len(f.Data)
	fail := func(line int, format string, a ...any) ([]token, error) {
		return nil, fmt.Errorf("%s:%d: %s", f.Name, line, fmt.Sprintf(format, a...))
	}
	switch {
	case c.files > maxFiles:
		return fail(1, "more than %d files", maxFiles)
	case len(f.Data) > MaxFile || c.octets > maxSize:
		return fail(1, "the files are longer than %d octets, or %d in all", MaxFile, maxSize)
	case !utf8.Valid(f.Data):
		return fail(1, "this is not text: it has octets that are not UTF-8")
	}
	var out []token
	s, line, glued := string(f.Data), 1, false
	for i := 0; i < len(s); {
		t := token{glued: glued, line: line}
		glued = true
		switch b := s[i]; {
		case b == '\n':
			line++
			i++
			glued = false
			continue
		case b == ' ' || b == '\t' || b == '\r' || b == '\\' && strings.HasPrefix(s[i+1:], "\n"):
			i++
			glued = false
			continue
		case b == '#':
			for i < len(s) && s[i] != '\n' {
				i++
			}
			glued = false
			continue
		case b < ' ' || b == 0x7f:
			return fail(line, "a control character, octet %d of the file", i)
		case strings.IndexByte("{};,", b) >= 0:
			t.text = s[i : i+1]
			i++
		case b == '"':
			n := strings.IndexAny(s[i+1:], "\"\n")
			if n < 0 || s[i+1+n] == '\n' {
				return fail(line, "the quotation mark is not closed on its line")
			}
			t.text, t.quoted = s[i+1:i+1+n], true
			i += n + 2
		case b == '[':
			n := strings.IndexAny(s[i:], "]\n;{}\"")
			if n < 0 || s[i+n] != ']' {
				return fail(line, "the bracket is not closed")
			}
			t.text = s[i : i+n+1]
			i += n + 1
		default:
			n := strings.IndexFunc(s[i:], func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("{};,\"#[", r) })
			if n < 0 {
				n = len(s) - i
			}
			t.text = s[i : i+n]
			i += n
		}
		if c.tokens++; c.tokens > maxTokens {
			return fail(line, "more than %d words", maxTokens)
		}
		out = append(out, t)
	}
	return out, nil
}

// stmt is a statement: words up to a semicolon, or before a block.
type stmt struct {
	file  string
	line  int
	words []token
	block bool
	body  []stmt
}

// word is the i-th word, or empty.
func (s stmt) word(i int) string {
	if i < len(s.words) {
		return s.words[i].text
	}
	return ""
}

// rest are the words from the i-th on, without commas.
func (s stmt) rest(i int) []string {
	var out []string
	for ; i < len(s.words); i++ {
		if !s.words[i].is(",") {
			out = append(out, s.words[i].text)
		}
	}
	return out
}

// text is the statement as notes show it: on one line, not too long, and never the
// key of an SA.
func (s stmt) text() string {
	var b strings.Builder
	keyed := slices.ContainsFunc(s.words, func(t token) bool { return t.is("-E") || t.is("-A") || t.is("-C") })
	for i, w := range s.words {
		if i > 0 && !w.glued {
			b.WriteByte(' ')
		}
		if strings.HasPrefix(w.text, "0x") && len(w.text) > 10 || w.quoted && keyed {
			b.WriteString("…")
		} else {
			b.WriteString(w.text)
		}
	}
	if t := b.String(); len(t) <= 120 {
		return t
	} else {
		return strings.ToValidUTF8(t[:120], "") + "…"
	}
}

// statements reads tokens into statements; what include names stands in its place.
func (c *converter) statements(f Source, toks []token, depth int) ([]stmt, error) {
	p := &parser{c: c, f: f, toks: toks, depth: depth}
	return p.block(0)
}

type parser struct {
	c     *converter
	f     Source
	toks  []token
	pos   int
	depth int
}

func (p *parser) fail(line int, format string, a ...any) error {
	return fmt.Errorf("%s:%d: %s", p.f.Name, line, fmt.Sprintf(format, a...))
}

// block reads statements up to the end of the block, or of the file at level 0.
func (p *parser) block(level int) ([]stmt, error) {
	var out []stmt
	for p.pos < len(p.toks) {
		t := p.toks[p.pos]
		switch {
		case t.is("}") && level > 0:
			p.pos++
			return out, nil
		case t.is("}"):
			return nil, p.fail(t.line, "a closing brace without an opening one")
		case t.is(";"):
			p.pos++
			continue
		}
		s, err := p.statement(level)
		if err != nil {
			return nil, err
		}
		if s.word(0) == "path" && s.word(1) == "include" {
			p.c.paths["include"] = s.word(2)
			continue
		}
		if s.word(0) != "include" || s.block {
			out = append(out, s)
			continue
		}
		list, err := p.include(s)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	if level > 0 {
		return nil, p.fail(p.lastLine(), "the file ends inside a block: a closing brace is missing")
	}
	return out, nil
}

func (p *parser) lastLine() int {
	if len(p.toks) == 0 {
		return 1
	}
	return p.toks[len(p.toks)-1].line
}

func (p *parser) statement(level int) (stmt, error) {
	s := stmt{file: p.f.Name, line: p.toks[p.pos].line}
	if p.c.stated++; p.c.stated > maxStated {
		return s, p.fail(s.line, "more than %d statements", maxStated)
	}
	for p.pos < len(p.toks) {
		t := p.toks[p.pos]
		p.pos++
		switch {
		case t.is(";"):
			return s, nil
		case t.is("}"):
			return s, p.fail(t.line, "a semicolon is missing before the closing brace")
		case t.is("{"):
			if len(s.words) == 0 || level >= maxBlocks {
				return s, p.fail(t.line, "a block that belongs to nothing, or is in more than %d others", maxBlocks)
			}
			s.block = true
			var err error
			s.body, err = p.block(level + 1)
			return s, err
		}
		s.words = append(s.words, t)
	}
	return s, p.fail(s.line, "the file ends inside a statement: a semicolon is missing")
}

func (p *parser) include(s stmt) ([]stmt, error) {
	switch {
	case len(s.words) != 2:
		return nil, p.fail(s.line, "include: expected one file name")
	case p.c.in.Include == nil:
		return nil, p.fail(s.line, "include %q: nothing can be included here", s.word(1))
	case p.depth >= maxDepth:
		return nil, p.fail(s.line, "include %q: more than %d files include each other", s.word(1), maxDepth)
	}
	files, err := p.c.in.Include(p.f.Name, p.c.at("include", s.word(1)))
	if err != nil {
		return nil, p.fail(s.line, "include %q: %v", s.word(1), err)
	}
	var out []stmt
	for _, f := range files {
		toks, err := p.c.lex(f)
		if err != nil {
			return nil, err
		}
		list, err := p.c.statements(f, toks, p.depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}
