package conf

import (
	"errors"
	"fmt"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// parseTOML reads a TOML document into nodes. The library checks the document as
// a whole; the walk over its syntax tree adds the lines.
func parseTOML(data []byte) (*node, int, error) {
	var all map[string]any
	if err := toml.Unmarshal(data, &all); err != nil {
		line := 0
		if d, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ = d.Position()
		}
		return nil, line, fmt.Errorf("the file is not TOML: %w", err)
	}
	w := tomlWalk{root: &node{kind: mapNode, line: 1}}
	w.p.Reset(data)
	here := w.root
	for w.p.NextExpression() {
		e := w.p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			here = w.table(e)
		case unstable.KeyValue:
			w.keyValue(here, e, 0)
		}
	}
	if w.err == nil {
		w.err = w.p.Error()
	}
	return w.root, w.line, w.err
}

type tomlWalk struct {
	p     unstable.Parser
	root  *node
	count int
	line  int
	err   error
}

type tomlKey struct {
	name string
	line int
}

func (w *tomlWalk) keys(n *unstable.Node) []tomlKey {
	var out []tomlKey
	for it := n.Key(); it.Next(); {
		k := it.Node()
		out = append(out, tomlKey{string(k.Data), w.lineOf(k, 0)})
	}
	return out
}

func (w *tomlWalk) lineOf(n *unstable.Node, otherwise int) int {
	if n.Raw.Length == 0 {
		return otherwise
	}
	return w.p.Shape(n.Raw).Start.Line
}

func (w *tomlWalk) fail(line int, text string) {
	if w.err == nil {
		w.line, w.err = line, errors.New(text)
	}
}

// step goes into a sub-table; into the last one of an array of tables.
func (n *node) step(k tomlKey) *node {
	for _, e := range n.entries {
		if e.key != k.name {
			continue
		}
		if e.val.kind == listNode && len(e.val.items) > 0 {
			return e.val.items[len(e.val.items)-1]
		}
		return e.val
	}
	sub := &node{kind: mapNode, line: k.line}
	n.entries = append(n.entries, entry{k.name, k.line, sub})
	return sub
}

func (w *tomlWalk) table(e *unstable.Node) *node {
	keys := w.keys(e)
	if len(keys) > maxDepth {
		w.fail(keys[0].line, "the file is nested too deeply")
		return &node{kind: mapNode}
	}
	here := w.root
	for _, k := range keys[:len(keys)-1] {
		here = here.step(k)
	}
	last := keys[len(keys)-1]
	if e.Kind == unstable.Table {
		return here.step(last)
	}
	item := &node{kind: mapNode, line: last.line}
	for i := range here.entries {
		if here.entries[i].key == last.name {
			here.entries[i].val.items = append(here.entries[i].val.items, item)
			return item
		}
	}
	here.entries = append(here.entries, entry{last.name, last.line, &node{kind: listNode, line: last.line, items: []*node{item}}})
	return item
}

func (w *tomlWalk) keyValue(here *node, e *unstable.Node, depth int) {
	keys := w.keys(e)
	if len(keys)+depth > maxDepth {
		w.fail(keys[0].line, "the file is nested too deeply")
		return
	}
	for _, k := range keys[:len(keys)-1] {
		here = here.step(k)
	}
	last := keys[len(keys)-1]
	here.entries = append(here.entries, entry{last.name, last.line, w.value(e.Value(), last.line, depth+1)})
}

func (w *tomlWalk) value(v *unstable.Node, line, depth int) *node {
	out := &node{line: w.lineOf(v, line)}
	if w.count++; w.count > maxNodes || depth > maxDepth {
		w.fail(out.line, "the file is too large or nested too deeply")
		return out
	}
	switch v.Kind {
	case unstable.Array:
		out.kind = listNode
		for it := v.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment {
				out.items = append(out.items, w.value(it.Node(), out.line, depth+1))
			}
		}
	case unstable.InlineTable:
		out.kind = mapNode
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				w.keyValue(out, it.Node(), depth+1)
			}
		}
	case unstable.String:
		out.text = string(v.Data)
	default:
		out.text, out.notText = string(v.Data), true
	}
	return out
}
