package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"iked/internal/backend/backendtest"
	"iked/internal/doccheck"
	"iked/internal/uml"
)

// results are the cells of a table, in the order in which rows and columns came.
type results struct {
	rows, columns []string
	cells         map[[2]string]string
	notes         []string
}

func (r *results) set(row, column, result string) {
	if r.cells == nil {
		r.cells = map[[2]string]string{}
	}
	if !slices.Contains(r.rows, row) {
		r.rows = append(r.rows, row)
	}
	if !slices.Contains(r.columns, column) {
		r.columns = append(r.columns, column)
	}
	// A cell of the page stands for several runs; a failure in one is its result.
	if old := r.cells[[2]string{row, column}]; old == "" || old == "pass" {
		r.cells[[2]string{row, column}] = result
	}
}

// note numbers a remark, once for each text.
func (r *results) note(text string) string {
	i := slices.Index(r.notes, text)
	if i < 0 {
		r.notes = append(r.notes, text)
		i = len(r.notes) - 1
	}
	return fmt.Sprintf("refused (%d)", i+1)
}

func (r *results) markdown(head string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |\n|---|%s\n", head, strings.Join(r.columns, " | "), strings.Repeat("---|", len(r.columns)))
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, c := range r.columns {
			v := r.cells[[2]string{row, c}]
			if v == "" {
				v = "-"
			}
			fmt.Fprintf(&b, " %s |", v)
		}
		b.WriteString("\n")
	}
	for i, n := range r.notes {
		fmt.Fprintf(&b, "\n(%d) %s\n", i+1, n)
	}
	return b.String()
}

type negotiatedResults struct{ results }

func (r *negotiatedResults) add(name, column string, pass bool) {
	result := "pass"
	if !pass {
		result = "FAIL"
	}
	r.set(name, column, result)
}

// pairResults has a table for each pair of backends.
type pairResults struct {
	names  []string
	tables map[string]*results
}

func (p *pairResults) add(name string, r backendtest.Row) {
	if p.tables == nil {
		p.tables = map[string]*results{}
	}
	if p.tables[name] == nil {
		p.names = append(p.names, name)
		p.tables[name] = &results{}
	}
	t := p.tables[name]
	result := "pass"
	switch {
	case r.Failed:
		result = "FAIL"
	case r.Refused != "":
		result = t.note(r.Refused)
	}
	t.set(r.Way(), r.Proto.String()+" "+r.Algorithm.String(), result)
}

var (
	negotiatedTable negotiatedResults
	pairTable       pairResults
)

// writeTables writes docs/interop.md with IKED_WRITE_MATRIX=1.
func writeTables() error {
	if !uml.Inside() || os.Getenv("IKED_WRITE_MATRIX") != "1" {
		return nil
	}
	page := filepath.Join("..", "..", "docs", "interop.md")
	if len(negotiatedTable.rows) > 0 {
		if err := doccheck.WriteSection(page, "negotiated", negotiatedTable.markdown("case")); err != nil {
			return err
		}
	}
	var b strings.Builder
	for _, name := range pairTable.names {
		fmt.Fprintf(&b, "\n### %s\n\n%s", name, pairTable.tables[name].markdown("mode"))
	}
	if b.Len() == 0 {
		return nil
	}
	return doccheck.WriteSection(page, "pairs", b.String()+"\n")
}
