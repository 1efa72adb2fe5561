package backendtest

import (
	"fmt"
	"slices"
	"strings"
)

// Table is results as a page shows them, in the order in which rows and columns
// came.
type Table struct {
	rows, columns []string
	cells         map[[2]string]string
	notes         []string
}

// Set notes a result. A cell of the page stands for several runs; of these, one
// that is not "pass" is its result.
func (r *Table) Set(row, column, result string) {
	if r.cells == nil {
		r.cells = map[[2]string]string{}
	}
	if !slices.Contains(r.rows, row) {
		r.rows = append(r.rows, row)
	}
	if !slices.Contains(r.columns, column) {
		r.columns = append(r.columns, column)
	}
	if old := r.cells[[2]string{row, column}]; old == "" || old == "pass" {
		r.cells[[2]string{row, column}] = result
	}
}

// Add notes the row of a pair.
func (r *Table) Add(x Row) {
	result := "pass"
	switch {
	case x.Failed:
		result = "FAIL"
	case x.Refused != "":
		i := slices.Index(r.notes, x.Refused)
		if i < 0 {
			r.notes = append(r.notes, x.Refused)
			i = len(r.notes) - 1
		}
		result = fmt.Sprintf("refused (%d)", i+1)
	}
	r.Set(x.Way(), x.Proto.String()+" "+x.Algorithm.String(), result)
}

// Empty tells whether nothing was noted.
func (r *Table) Empty() bool { return len(r.rows) == 0 }

// Markdown is the table, with head above the names of its rows.
func (r *Table) Markdown(head string) string {
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
