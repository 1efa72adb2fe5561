// Command runtests runs the tests of the module in phases (unit, race, vm, interop)
// and closes with one summary. It ends with 1 when a test failed, when a package
// did not build, when a test that exists gave no result, and, under CI=true, when
// a test was skipped.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

// phase is one call of go test.
type phase struct {
	name string
	args []string
	// kind of the packages that it is about.
	kind kind
}

// kind divides the packages of the module.
type kind int

const (
	plain   kind = iota
	vm           // their tests run inside a user-mode-linux (internal/uml)
	interop      // tests against other systems on the machine's own kernel
)

var phases = []phase{
	{name: "unit", args: []string{"-timeout=20m"}},
	{name: "race", args: []string{"-race", "-timeout=30m"}},
	// A guest has one processor.
	{name: "vm", args: []string{"-count=1", "-p=2", "-timeout=30m"}, kind: vm},
	{name: "interop", args: []string{"-count=1", "-parallel=4", "-timeout=30m"}, kind: interop},
}

func main() {
	only := flag.String("phases", "unit,race,vm,interop", "phases to run, separated by commas")
	summary := flag.String("summary", "", "file for the closing line")
	flag.Parse()
	ci := os.Getenv("CI") == "true"
	total, err := run(strings.Split(*only, ","))
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
		total.failed++
	}
	for _, s := range total.skips {
		fmt.Println("skipped:", s)
	}
	for _, f := range total.failures {
		fmt.Println("FAILED:", f)
	}
	if ci && total.skipped > 0 {
		fmt.Println("under CI a skipped test is a failure")
	}
	line := fmt.Sprintf("%d passed, %d failed, %d skipped", total.passed, total.failed, total.skipped)
	fmt.Println(line)
	if *summary != "" {
		if err := os.WriteFile(*summary, []byte(line+"\n"), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "runtests:", err)
			os.Exit(1)
		}
	}
	if total.failed > 0 || total.passed == 0 || ci && total.skipped > 0 {
		os.Exit(1)
	}
}

// counts is the outcome of one or more phases.
type counts struct {
	passed, failed, skipped int
	skips, failures         []string
}

func run(names []string) (counts, error) {
	var total counts
	pkgs, err := packages()
	if err != nil {
		return total, err
	}
	for _, name := range names {
		var p *phase
		for i := range phases {
			if phases[i].name == name {
				p = &phases[i]
			}
		}
		if p == nil {
			return total, fmt.Errorf("phase %q: expected unit, race, vm or interop", name)
		}
		if len(pkgs[p.kind]) == 0 {
			return total, fmt.Errorf("phase %s has no package", name)
		}
		c, err := p.run(pkgs[p.kind])
		total.passed += c.passed
		total.failed += c.failed
		total.skipped += c.skipped
		total.skips = append(total.skips, c.skips...)
		total.failures = append(total.failures, c.failures...)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// packages lists the packages of the module by kind.
func packages() (map[kind][]string, error) {
	out, err := output("go", "list", "-f", `{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}`, "iked/...")
	if err != nil {
		return nil, err
	}
	list := map[kind][]string{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		words := strings.Fields(line)
		k := plain
		switch {
		case slices.Contains(words[1:], "iked/internal/uml"):
			k = vm
		case strings.HasPrefix(words[0], "iked/interop"):
			k = interop
		}
		list[k] = append(list[k], words[0])
	}
	return list, nil
}

func output(name string, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// report collects what one phase says.
type report struct {
	counts
	phase   string
	results map[string]bool // tests with a result: package + " " + test
	output  map[string]*strings.Builder
	status  map[string]string // package: pass, fail, skip
}

func (p *phase) run(pkgs []string) (counts, error) {
	fmt.Printf("== %s: go test %s, %d packages\n", p.name, strings.Join(p.args, " "), len(pkgs))
	start := time.Now()
	r := &report{phase: p.name, results: map[string]bool{}, output: map[string]*strings.Builder{}, status: map[string]string{}}
	cmd := exec.Command("go", append(append([]string{"test", "-json"}, p.args...), pkgs...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return r.counts, err
	}
	if err := cmd.Start(); err != nil {
		return r.counts, err
	}
	readErr := r.read(pipe)
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r.counts, err
	}
	if err != nil && r.failed == 0 {
		r.fail("go test ended with " + err.Error() + " though no test failed")
	}
	if readErr != nil {
		return r.counts, readErr
	}
	if err := r.complete(p.args, pkgs); err != nil {
		return r.counts, err
	}
	fmt.Printf("== %s: %d passed, %d failed, %d skipped in %v\n\n", p.name, r.passed, r.failed, r.skipped, time.Since(start).Round(time.Second))
	return r.counts, nil
}

func (r *report) fail(what string) {
	r.failed++
	r.failures = append(r.failures, r.phase+": "+what)
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Print(string(line)) // go itself speaks
			} else {
				r.event(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) event(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
	case "output":
		if r.output[key] == nil {
			r.output[key] = new(strings.Builder)
		}
		r.output[key].WriteString(e.Output)
		if strings.HasPrefix(e.Output, "LEFT OUT ") {
			fmt.Print(e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageDone(e)
			return
		}
		r.results[key] = true
		switch e.Action {
		case "pass":
			r.passed++
		case "fail":
			what := key
			if b := r.output[key]; b != nil {
				fmt.Print(b)
				what += said(b.String())
			}
			r.fail(what)
		case "skip":
			r.skipped++
			why := ""
			if b := r.output[key]; b != nil {
				why = reason(b.String())
			}
			r.skips = append(r.skips, r.phase+": "+key+why)
		}
		delete(r.output, key)
	}
}

// message begins what a test says; what it goes on with is indented more.
var message = regexp.MustCompile(`^ +[A-Za-z0-9_]+\.go:[0-9]+: `)

// messages are the first lines of what a test said, from its output, of reasonable length.
func messages(out string) (list []string) {
	for _, line := range strings.Split(out, "\n") {
		if message.MatchString(line) {
			line = strings.TrimSpace(line)
			list = append(list, line[:min(len(line), 500)])
		}
	}
	return list
}

// said is what a failed test said, for the summary: its output can be long, with the logs
// of daemons.
func said(out string) (s string) {
	list := messages(out)
	for _, line := range list[:min(len(list), 8)] {
		s += "\n    " + line
	}
	return s
}

// reason is the message of a skipped test, from its output.
func reason(out string) string {
	if list := messages(out); len(list) > 0 {
		return " (" + list[0] + ")"
	}
	return ""
}

func (r *report) packageDone(e event) {
	r.status[e.Package] = e.Action
	out := ""
	if b := r.output[e.Package+" "]; b != nil {
		out = b.String()
	}
	switch e.Action {
	case "fail":
		fmt.Print(out)
		// A test's own failure is counted where it is reported.
		tests := false
		for _, f := range r.failures {
			tests = tests || strings.HasPrefix(f, r.phase+": "+e.Package+" ")
		}
		if !tests {
			r.fail(e.Package + " (the package failed, no test of it did)")
		}
	case "pass":
		for _, line := range strings.Split(out, "\n") {
			if strings.HasPrefix(line, "ok ") {
				fmt.Println(line)
			}
		}
	}
}

// complete checks that each test that exists has a result.
func (r *report) complete(args, pkgs []string) error {
	list := []string{"test", "-json", "-list", "^(Test|Fuzz|Example)"}
	for _, a := range args {
		if a == "-race" {
			list = append(list, a) // the same build, from the cache
		}
	}
	out, err := output("go", append(list, pkgs...)...)
	if err != nil && r.failed > 0 {
		return nil // what does not build is reported already
	}
	if err != nil {
		return err
	}
	var missing []string
	for _, line := range strings.Split(out, "\n") {
		var e event
		if json.Unmarshal([]byte(line), &e) != nil || e.Action != "output" {
			continue
		}
		name := strings.TrimSpace(e.Output)
		isTest := strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Example")
		if isTest && !r.results[e.Package+" "+name] {
			missing = append(missing, e.Package+" "+name)
		}
	}
	sort.Strings(missing)
	for _, m := range missing {
		if r.status[strings.Fields(m)[0]] != "fail" { // else it was cut short
			r.fail(m + " (no result)")
		}
	}
	return nil
}
