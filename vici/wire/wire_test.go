package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Packets are written octet for octet as other implementations write them.
func TestPacketGolden(t *testing.T) {
	for _, c := range []struct {
		name string
		p    Packet
		hex  string
	}{
		{"version request", Packet{Type: CmdRequest, Name: "version"}, "00000009 00 07 76657273696f6e"},
		{"register list-sa", Packet{Type: EventRegister, Name: "list-sa"}, "00000009 03 07 6c6973742d7361"},
		{"confirm", Packet{Type: EventConfirm}, "00000001 05"},
		{"empty reply", Packet{Type: CmdResponse}, "00000001 01"},
		{"success", Packet{Type: CmdResponse, Body: unhex(t, "03 07 73756363657373 0003 796573")}, "0000000f 01 03 07 73756363657373 0003 796573"},
	} {
		want := unhex(t, c.hex)
		got, err := c.p.Append(nil)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v, want %x", c.name, got, err, want)
		}
		raw, err := ReadPacket(bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParsePacket(raw)
		if err != nil || back.Type != c.p.Type || back.Name != c.p.Name || !bytes.Equal(back.Body, c.p.Body) {
			t.Errorf("%s: parsed %+v, %v", c.name, back, err)
		}
	}
}

func sample() Message {
	var m, sub, deep Message
	deep.Set("k", "v")
	sub.SetSection("deep", deep)
	sub.SetList("conns", "a", "b")
	m.Set("success", "yes")
	m.SetSection("", sub)
	m.SetList("empty")
	m.SetSection("s", nil)
	m.SetBytes("data", []byte{0, 1, 2})
	return m
}

// A message is written and read back in order.
func TestMessageRoundTrip(t *testing.T) {
	b, err := sample().Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.Append(nil)
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("second encoding differs (%v):\n%s", err, cmp.Diff(b, again))
	}
}

// Golden elements of a message.
func TestMessageGolden(t *testing.T) {
	var m Message
	m.SetList("conns", "a")
	m.SetSection("s", nil)
	got, _ := m.Append(nil)
	want := unhex(t, "04 05 636f6e6e73 05 0001 61 06 01 01 73 02")
	if !bytes.Equal(got, want) {
		t.Fatalf("got %x want %x", got, want)
	}
}

// No prefix that cuts an element is taken for a whole message.
func TestMessageEveryPrefix(t *testing.T) {
	whole, _ := sample().Append(nil)
	for i := range whole {
		m, err := Parse(whole[:i])
		if err == nil {
			b, _ := m.Append(nil)
			if !bytes.Equal(b, whole[:i]) {
				t.Fatalf("prefix of %d octets parsed as something else", i)
			}
			continue
		}
		if !errors.Is(err, ErrSyntax) {
			t.Fatalf("prefix of %d octets: %v", i, err)
		}
	}
}

// Lists hold items only, ends need starts, and nesting is bounded.
func TestMessageRefused(t *testing.T) {
	for name, in := range map[string][]byte{
		"section end at root":  {elemSectionEnd},
		"item outside a list":  {elemListItem, 0, 1, 'x'},
		"list end at root":     {elemListEnd},
		"section in a list":    {elemListStart, 1, 'l', elemSectionStart, 1, 's', elemSectionEnd, elemListEnd},
		"key in a list":        {elemListStart, 1, 'l', elemKeyValue, 1, 'k', 0, 0, elemListEnd},
		"unknown element":      {9},
		"value past the end":   {elemKeyValue, 1, 'k', 0xff, 0xff},
		"name past the end":    {elemKeyValue, 200, 'k'},
		"section without end":  {elemSectionStart, 1, 's'},
		"a thousand sections":  bytes.Repeat([]byte{elemSectionStart, 0}, 1000),
		"list without an end":  {elemListStart, 0},
		"list item cut":        {elemListStart, 0, elemListItem, 0},
		"key without a length": {elemKeyValue},
	} {
		if _, err := Parse(in); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: accepted (%v)", name, err)
		}
	}
}

// A packet that announces more than 512 KiB is refused before anything is
// allocated for it.
func TestPacketTooLong(t *testing.T) {
	if _, err := ReadPacket(bytes.NewReader([]byte{0, 8, 0, 1})); !errors.Is(err, ErrTooLong) {
		t.Fatalf("got %v", err)
	}
	for _, in := range [][]byte{nil, {8}, {0}, {0, 5, 'a'}, {0, 1, 7}, {3}} {
		if _, err := ParsePacket(in); !errors.Is(err, ErrSyntax) {
			t.Errorf("%x accepted (%v)", in, err)
		}
	}
}

// Scalars are read as the field's clients write them.
func TestScalars(t *testing.T) {
	var m Message
	m.Set("hex", "0x10")
	m.Set("oct", "010")
	m.Set("junk", "1x")
	m.Set("neg", "-1")
	m.Set("on", "Enabled")
	m.Set("off", "0")
	m.SetBytes("bin", []byte{0xff})
	if got := [...]int64{m.Int("hex", 1), m.Int("oct", 1), m.Int("junk", 7), m.Int("neg", 1), m.Int("none", 9)}; got != [...]int64{16, 8, 7, -1, 9} {
		t.Errorf("numbers %v", got)
	}
	if !m.Bool("on", false) || m.Bool("off", true) || !m.Bool("junk", true) {
		t.Error("booleans")
	}
	if _, ok := m.Text("bin"); ok {
		t.Error("a value that is not printable must count as absent")
	}
}

func FuzzParse(f *testing.F) {
	b, _ := sample().Append(nil)
	f.Add(b)
	f.Add([]byte{elemListStart, 1, 'l', elemListItem, 0, 1, 'x', elemListEnd})
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := Parse(in)
		out, aerr := m.Append(nil)
		if aerr != nil {
			t.Fatalf("parsed but cannot be written: %v", aerr)
		}
		if err == nil && !bytes.Equal(in, out) {
			t.Fatalf("in %x out %x", in, out)
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte{0, 7, 'v', 'e', 'r', 's', 'i', 'o', 'n'})
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := ParsePacket(in)
		if err != nil {
			return
		}
		out, err := p.Append(nil)
		if err != nil || !bytes.Equal(out[4:], in) {
			t.Fatalf("in %x out %x (%v)", in, out, err)
		}
	})
}
