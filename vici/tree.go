package vici

import (
	"iked/conf"
	"iked/vici/wire"
)

// tree is a section of a request in the form that package conf reads.
func tree(name string, m wire.Message) *conf.Tree {
	t := &conf.Tree{Name: name, Items: make([]conf.Item, 0, len(m))}
	for i := range m {
		n := &m[i]
		it := conf.Item{Key: n.Name}
		switch n.Kind {
		case wire.KindValue:
			it.Kind, it.Value = conf.KeyValue, string(n.Value)
		case wire.KindList:
			it.Kind = conf.List
			for _, v := range n.Items {
				it.List = append(it.List, string(v))
			}
		case wire.KindSection:
			it.Kind, it.Tree = conf.Section, tree(n.Name, n.Sub)
		}
		t.Items = append(t.Items, it)
	}
	return t
}
