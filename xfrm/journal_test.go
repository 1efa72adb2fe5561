package xfrm

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/sad"
	"iked/xfrm/wire"
)

const testID = "iked kernel backend 1 boot x namespace 1:2"

// journalLines are entries of an SA and of a policy.
func journalLines() (sa, policy string) {
	m := &wire.SAByID{SAID: wire.SAID{Dst: wire.AddressOf(netip.MustParseAddr("192.0.2.2")), SPI: 0x1000, Family: wire.Inet, Proto: 50}}
	return saLine(m, 7), leftover{policy: &wire.PolicyByID{}}.line()
}

func lines(list []leftover) (s []string) {
	for _, l := range list {
		s = append(s, l.line())
	}
	return s
}

// What was added and not removed is left, in its order. A journal of something else
// has nothing, a line that says nothing is counted, and one that was cut by a crash
// was not in force.
func TestReadJournal(t *testing.T) {
	sa, policy := journalLines()
	long := "+" + strings.Repeat("s", 3*maxLine)
	for _, x := range []struct {
		name, text string
		want       []string
		damaged    int
	}{
		{"added", testID + "\n+" + policy + "\n+" + sa + "\n", []string{policy, sa}, 0},
		{"removed", testID + "\n+" + policy + "\n+" + sa + "\n-" + policy + "\n", []string{sa}, 0},
		{"twice", testID + "\n+" + sa + "\n-" + sa + "\n+" + policy + "\n+" + sa + "\n+" + sa + "\n", []string{sa, policy}, 0},
		{"cut", testID + "\n+" + policy + "\n+" + sa, []string{policy}, 0},
		{"another boot", strings.Replace(testID, "x", "y", 1) + "\n+" + sa + "\n", nil, 0},
		{"no line", testID, nil, 0},
		{"too long", testID + "\n" + long + "\n+" + sa + "\n", []string{sa}, 1},
		{"first line too long", long + "\n+" + sa + "\n", nil, 0},
		{"nothing said", testID + "\n\n+\n" + sa + "\n+-" + sa + "\n+s 00\n+q " + sa[2:] + "\n+" + sa + "\n", []string{sa}, 6},
		{"without a request id", testID + "\n+" + strings.TrimSuffix(sa, " 7") + "\n", []string{strings.TrimSuffix(sa, " 7")}, 0},
		{"request ids that are none", testID + "\n+" + sa + "x\n+" + strings.TrimSuffix(sa, "7") + "0\n+" + strings.TrimSuffix(sa, "7") + "07\n+" + policy + " 7\n+" + sa + "\n", []string{sa}, 4},
		{"glued", testID + "\n+" + policy[:20] + "+" + sa + "\n-" + sa + "\n+" + policy + "\n", []string{policy}, 1},
	} {
		got, damaged, err := readJournal(strings.NewReader(x.text), testID)
		if err != nil || damaged != x.damaged || !slices.Equal(lines(got), x.want) {
			t.Errorf("%s: %q, %d damaged, %v; want %q, %d", x.name, lines(got), damaged, err, x.want, x.damaged)
		}
	}
}

// Of every prefix of a journal, what is left are the entries whose lines are whole.
func TestJournalPrefixes(t *testing.T) {
	sa, policy := journalLines()
	text := testID + "\n+" + policy + "\n+" + sa + "\n"
	for n := range len(text) {
		got, damaged, err := readJournal(strings.NewReader(text[:n]), testID)
		whole := max(0, strings.Count(text[:n], "\n")-1)
		if err != nil || damaged > 0 || !slices.Equal(lines(got), []string{policy, sa}[:whole]) {
			t.Fatalf("%d octets: %q, %d damaged, %v", n, lines(got), damaged, err)
		}
	}
}

func FuzzReadJournal(f *testing.F) {
	sa, policy := journalLines()
	f.Add([]byte("+" + policy + "\n+" + sa + "\n-" + policy + "\n"))
	f.Add([]byte("+-" + sa + "\n\n+p \n+s 00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _, err := readJournal(bytes.NewReader(append([]byte(testID+"\n"), b...)), testID)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			if again, ok := parseLine(l.line()); !ok || again.line() != l.line() {
				t.Fatalf("%q is not read again", l.line())
			}
		}
	})
}

// A journal that cannot be written keeps nothing from working; when it can be again,
// it has all that is there then, and nothing of a line that was cut.
func TestJournalMended(t *testing.T) {
	dir := t.TempDir()
	sa, policy := journalLines()
	j, err := openJournal(dir)
	if err != nil || j.err != nil {
		t.Fatal(err, j.err)
	}
	defer j.close()
	j.add(policy)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	good := j.file
	j.file = full
	j.add(sa)
	if !errors.Is(j.err, unix.ENOSPC) {
		t.Fatal(j.err)
	}
	if _, err := good.WriteString("+p 0011"); err != nil {
		t.Fatal(err)
	}
	good.Close()
	j.drop(policy)
	if j.mend(); j.err != nil {
		t.Fatal(j.err)
	}
	j.add(policy)
	b, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	got, damaged, err := readJournal(bytes.NewReader(b), j.id)
	if err != nil || damaged > 0 || !slices.Equal(lines(got), []string{sa, policy}) {
		t.Errorf("%q, %d damaged, %v", lines(got), damaged, err)
	}
	if other, err := openJournal(dir); !errors.Is(err, errInUse) {
		t.Errorf("a second process: %v %v", other, err)
	}
}

// On a file system where nothing can be written the journal of before is read all
// the same, and stays as it is.
func TestJournalNotWritable(t *testing.T) {
	dir := t.TempDir()
	sa, _ := journalLines()
	id, err := identity()
	if err != nil {
		t.Fatal(err)
	}
	text := id + "\n+" + sa + "\n"
	if err := os.WriteFile(filepath.Join(dir, "journal"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// A folder where the new file should be: it cannot be opened for writing.
	if err := os.MkdirAll(filepath.Join(dir, "journal.new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(dir)
	if err != nil || j.err == nil || !slices.Equal(lines(j.left), []string{sa}) {
		t.Fatalf("%v %+v", err, j)
	}
	defer j.close()
	j.drop(sa)
	if b, err := os.ReadFile(j.path); err != nil || string(b) != text {
		t.Errorf("%q %v", b, err)
	}
	if err := j.remove(); err != nil {
		t.Error(err)
	}
}

// A state of compression that the kernel refused to delete is named by the journal when
// the backend ends, though its SA is gone.
func TestJournalKeepsWhatWasRefused(t *testing.T) {
	b := newBackend(Options{State: t.TempDir()})
	b.req = &socket{} // refuses everything
	var err error
	if b.journal, err = openJournal(b.opt.State); err != nil {
		t.Fatal(err)
	}
	defer b.journal.close()
	main := &saRecord{id: sad.ID{Dir: sad.Out, Proto: suite.ProtoESP, SPI: 0x1000, Dst: netip.MustParseAddr("192.0.2.2")}}
	comp := &saRecord{id: sad.ID{Dir: sad.Out, Proto: suite.ProtoIPComp, SPI: 0x1234, Dst: main.id.Dst}, main: main}
	main.comp = comp
	b.journal.addSA(main)
	b.journal.addSA(comp)
	b.put(main)
	b.serving[0]++
	b.drop(main)
	b.ended(main) // its own deletion succeeded
	if err := errors.Join(b.removeAll(), b.journal.remove()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(journalPath(b.opt.State))
	if err != nil || !strings.Contains(string(text), "+"+comp.line()+"\n") || strings.Contains(string(text), main.line()) {
		t.Errorf("journal: %v\n%s", err, text)
	}
}
