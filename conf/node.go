package conf

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// node is a value of a file with its line, the same for YAML and TOML.
type node struct {
	kind    nodeKind
	text    string
	notText bool // a scalar that is a number, a truth value or a date
	line    int
	entries []entry // of a map, in order
	items   []*node // of a list
}

type entry struct {
	key  string
	line int
	val  *node
}

type nodeKind uint8

const (
	scalarNode nodeKind = iota
	listNode
	mapNode
	nullNode
)

// maxNodes bounds a file, aliases multiplied out; maxDepth its nesting.
const (
	maxNodes = 2_000_000
	maxDepth = 64
)

// parseYAML reads a YAML document into nodes.
func parseYAML(data []byte) (*node, int, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		// The parser tells of tabs in words of its own, and often without the line.
		if line := tabLine(data); line != 0 && tabErrorRE.MatchString(err.Error()) {
			return nil, line, errors.New("the line is indented with a tab, YAML takes blanks only")
		}
		return nil, yamlLine(err), fmt.Errorf("the file is not YAML: %w", err)
	}
	if len(doc.Content) == 0 {
		return &node{kind: mapNode}, 0, nil
	}
	w := yamlWalk{}
	n := w.node(doc.Content[0], 0)
	return n, w.line, w.err
}

var tabErrorRE = regexp.MustCompile(`tab character|cannot start any token`)

// tabLine is the first line that is indented with a tab, 0 if there is none.
func tabLine(data []byte) int {
	for i, line := range bytes.Split(data, []byte("\n")) {
		if rest := bytes.TrimLeft(line, " "); len(rest) > 0 && rest[0] == '\t' && len(bytes.TrimSpace(rest)) > 0 {
			return i + 1
		}
	}
	return 0
}

var yamlLineRE = regexp.MustCompile(`line ([0-9]+)`)

func yamlLine(err error) int {
	if m := yamlLineRE.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 0
}

type yamlWalk struct {
	count int
	line  int
	err   error
}

func (w *yamlWalk) fail(n *yaml.Node, err error) *node {
	if w.err == nil {
		w.line, w.err = n.Line, err
	}
	return &node{kind: nullNode, line: n.Line}
}

func (w *yamlWalk) node(n *yaml.Node, depth int) *node {
	if w.count++; w.count > maxNodes || depth > maxDepth {
		return w.fail(n, errors.New("the file is too large or nested too deeply"))
	}
	if w.err != nil {
		return &node{kind: nullNode}
	}
	out := &node{line: n.Line}
	switch n.Kind {
	case yaml.AliasNode:
		if n.Alias == nil {
			return w.fail(n, errors.New("the alias has no anchor"))
		}
		return w.node(n.Alias, depth+1)
	case yaml.ScalarNode:
		out.text, out.notText = n.Value, n.Tag != "!!str"
		if n.Tag == "!!null" {
			out.kind = nullNode
		}
	case yaml.SequenceNode:
		out.kind = listNode
		for _, c := range n.Content {
			out.items = append(out.items, w.node(c, depth+1))
		}
	case yaml.MappingNode:
		out.kind = mapNode
		seen := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
				return w.fail(k, errors.New("expected a plain key"))
			}
			if first, ok := seen[k.Value]; ok {
				return w.fail(k, fmt.Errorf("the key %s is already in line %d", quote(k.Value), first))
			}
			seen[k.Value] = k.Line
			out.entries = append(out.entries, entry{k.Value, k.Line, w.node(n.Content[i+1], depth+1)})
		}
	default:
		return w.fail(n, errors.New("expected a value"))
	}
	return out
}

// lineTable says in which line each key of a map is.
func (n *node) lineTable() *lineTable {
	t := &lineTable{of: make(map[string]int, len(n.entries))}
	for _, e := range n.entries {
		t.of[e.key] = e.line
	}
	return t
}

// tree turns a map into a section. Lists of maps become sections: those under
// children by their name, others numbered from 1.
func (l *loader) tree(name string, n *node, pos Pos, skip string) *Tree {
	pos.lines = n.lineTable()
	t := &Tree{Name: name, Pos: pos}
	for _, e := range n.entries {
		if e.key == skip {
			continue
		}
		p := pos.sub(e.key, e.line)
		switch e.val.kind {
		case nullNode:
			// A key without value is unset, as in swanctl.conf.
		case scalarNode:
			t.Items = append(t.Items, Item{Kind: KeyValue, Key: e.key, Value: e.val.text, notText: e.val.notText, Pos: p})
		case mapNode:
			t.Items = append(t.Items, Item{Kind: Section, Key: e.key, Tree: l.tree(e.key, e.val, p, ""), Pos: p})
		case listNode:
			t.Items = append(t.Items, l.listItems(e, p)...)
		}
	}
	return t
}

func (l *loader) listItems(e entry, p Pos) []Item {
	maps := 0
	for _, v := range e.val.items {
		if v.kind == mapNode {
			maps++
		}
	}
	if maps == 0 {
		it := Item{Kind: List, Key: e.key, Pos: p, List: []string{}}
		for i, v := range e.val.items {
			if v.kind != scalarNode {
				l.fault(p.at(strconv.Itoa(i), v.line), "", "expected a value")
				continue
			}
			it.List = append(it.List, v.text)
			it.lines = append(it.lines, v.line)
		}
		return []Item{it}
	}
	if maps < len(e.val.items) {
		l.fault(p, "", "expected a list of sections, found other values among them")
		return nil
	}
	if e.key == "children" {
		inner := &Tree{Name: e.key, Pos: p}
		l.named(e.val, p, func(name string, n *node, pos Pos) {
			inner.Items = append(inner.Items, Item{Kind: Section, Key: name, Tree: l.tree(name, n, pos, "name"), Pos: pos})
		})
		return []Item{{Kind: Section, Key: e.key, Tree: inner, Pos: p}}
	}
	var items []Item
	for i, v := range e.val.items {
		pos := p.at(strconv.Itoa(i), v.line)
		items = append(items, Item{Kind: Section, Key: fmt.Sprintf("%s-%d", e.key, i+1), Tree: l.tree(e.key, v, pos, ""), Pos: pos})
	}
	return items
}

// named walks a list of things with a key "name".
func (l *loader) named(n *node, p Pos, do func(name string, n *node, pos Pos)) {
	switch n.kind {
	case nullNode:
		return
	case listNode:
	default:
		l.fault(p, "write it as a list: a line \"- name: …\" for each", "expected a list of things with a name")
		return
	}
	seen := map[string]int{}
	for i, v := range n.items {
		pos := p.at(strconv.Itoa(i), v.line)
		if v.kind != mapNode {
			l.fault(pos, "write \"- name: …\" and its keys", "expected a thing with a name, found a value")
			continue
		}
		name, line := "", v.line
		for _, e := range v.entries {
			if e.key == "name" && e.val.kind == scalarNode {
				name, line = e.val.text, e.line
			}
		}
		if err := checkName(name); err != nil {
			l.add(pos.sub("name", line), err)
			continue
		}
		pos = p.at(name, v.line)
		if first, ok := seen[name]; ok {
			l.fault(pos.sub("name", line), "choose another name", "the name %s is already taken in line %d", quote(name), first)
			continue
		}
		seen[name] = line
		do(name, v, pos)
	}
}

// checkName holds a name against what the control protocol can carry.
func checkName(s string) error {
	if s == "" {
		return refuse("add name", "the name is missing")
	}
	if len(s) > 255 {
		return refuse("", "the name has %d octets, at most 255 are possible", len(s))
	}
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] > 0x7e || s[i] == '/' {
			return refuse("", "a name has only printable ASCII letters, without blanks and '/', found %s", quote(s))
		}
	}
	return nil
}
