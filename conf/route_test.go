package conf

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"iked/spd"
)

func routeConf(conn, child string) string {
	return fmt.Sprintf(`
connections:
  - name: c
    remote_addrs: [192.0.2.2]
    %s
    local: {auth: psk}
    remote: {auth: psk}
    children:
      - {name: n, local_ts: [10.1.0.0/16], remote_ts: [10.2.0.0/16], start: passive%s}
secrets: [{psk: "a-long-secret"}]
`, conn, child)
}

func parseRoute(t *testing.T, conn, child string) (*Child, Faults) {
	t.Helper()
	c, faults := Parse("/nowhere/iked.yaml", []byte(routeConf(conn, child)), time.Now())
	if c == nil {
		return nil, faults
	}
	return c.Connections[0].Children[0], faults
}

// The number of an interface is that of the child, else that of the connection,
// else made of the name of the device; the two directions have the same.
func TestIfIDs(t *testing.T) {
	auto, _ := parseRoute(t, "", ", interface: office0")
	again, _ := parseRoute(t, "", ", interface: office0")
	other, _ := parseRoute(t, "", ", interface: office1")
	if auto.IfIDOut == 0 || auto.IfIDOut != auto.IfIDIn || auto.IfIDOut != again.IfIDOut || auto.IfIDOut == other.IfIDOut {
		t.Errorf("numbers of devices: %d, %d, %d", auto.IfIDOut, again.IfIDOut, other.IfIDOut)
	}
	for _, x := range []struct {
		conn, child string
		want        uint32
	}{
		{"", ", if_id: 7", 7}, {"", ", if_id_in: 0x10, if_id_out: 16", 16}, {"{if_id_in: 5, if_id_out: 5}", "", 5}, {"{if_id_in: 5, if_id_out: 5}", ", if_id: 9", 9},
		{"{if_id_in: 5, if_id_out: 5}", ", interface: office0", 5}, {"", "", 0},
	} {
		conn := strings.ReplaceAll(strings.Trim(x.conn, "{}"), ", ", "\n    ")
		c, faults := parseRoute(t, conn, x.child)
		if c == nil || c.IfIDIn != x.want || c.IfIDOut != x.want {
			t.Errorf("%+v: %+v %v", x, c, faults)
		}
	}
	for child, want := range map[string]string{
		", if_id_in: 1, if_id_out: 2":         "differ",
		", if_id_in: '%unique', if_id_out: 2": "not supported by this version",
		", interface: office0, if_id: 0":      "if_id 0 is no interface",
		", interface: a/b":                    "expected an interface name",
		", interface: office0, mark_out: 7":   "to an interface or to marks",
		", interface: a-name-of-17-octets":    "expected an interface name",
		", if_id: 4294967296":                 "expected a number",
		", interface: office0, mode: drop":    "has no interface",
	} {
		if c, faults := parseRoute(t, "", child); c != nil || !strings.Contains(faults.Err().Error(), want) {
			t.Errorf("%s: %v, expected %q", child, faults, want)
		}
	}
}

// Two devices have two numbers, and one device has one.
func TestInterfacesOfChildren(t *testing.T) {
	two := func(a, b string) Faults {
		text := routeConf("", a)
		line := text[strings.Index(text, "      - {name: n"):strings.Index(text, "\nsecrets")]
		text = strings.Replace(text, line, line+"\n"+strings.NewReplacer("name: n", "name: m", a, b, "10.2.", "10.3.").Replace(line), 1)
		_, faults := Parse("/nowhere/iked.yaml", []byte(text), time.Now())
		return faults
	}
	if f := two(", interface: a, if_id: 1", ", interface: a, if_id: 1"); f.Failed() {
		t.Error(f)
	}
	if f := two(", interface: a, if_id: 1", ", interface: a, if_id: 2"); !f.Failed() || !strings.Contains(f.Err().Error(), "in another child") {
		t.Error(f)
	}
	if f := two(", interface: a, if_id: 1", ", interface: b, if_id: 1"); !f.Failed() || !strings.Contains(f.Err().Error(), "is that of interface a") {
		t.Error(f)
	}
}

// Marks are written as the field writes them: the value is masked, without mask
// all bits count.
func TestMarks(t *testing.T) {
	all := ^uint32(0)
	for text, want := range map[string]spd.Mark{
		"42": {Value: 42, Mask: all}, "0x1f/0xf0": {Value: 0x10, Mask: 0xf0}, "0": {}, "0/1": {Mask: 1}, "": {}, "07": {Value: 7, Mask: all},
	} {
		if got, err := parseMark(text); err != nil || got != want {
			t.Errorf("%q: %+v %v, expected %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "1/", "/1", "-1", "4294967296", "1/2/3", "%unique", "%unique-dir/1"} {
		if got, err := parseMark(text); err == nil {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
	c, _ := parseRoute(t, "", ", mark_in: 0x33, set_mark_in: '%same/0xf', set_mark_out: 9/1")
	if c.SetMarkIn != (spd.Mark{Value: 3, Mask: 0xf}) || c.SetMarkOut != (spd.Mark{Value: 1, Mask: 1}) {
		t.Errorf("%+v %+v", c.SetMarkIn, c.SetMarkOut)
	}
}

// Over the control protocol interface has another meaning, and is refused; the
// numbers and marks that clients know are taken.
func TestRouteKeysOverControl(t *testing.T) {
	child := func(it ...Item) *Tree { return conn("a", section("children", section("n", it...))) }
	if _, err := LoadConns(child(kv("interface", "eth0"))); err == nil || err.Error() != "invalid value for: interface, config discarded" {
		t.Error(err)
	}
	got, err := LoadConns(child(kv("if_id_in", "42"), kv("if_id_out", "42"), kv("mark_out", "0x2/0xff"), kv("hw_offload", "auto")))
	if err != nil || got[0].Children[0].IfIDIn != 42 || got[0].Children[0].MarkOut.Mask != 0xff || got[0].Children[0].Offload != OffloadAuto {
		t.Errorf("%+v %v", got, err)
	}
}

// bypass takes a list; an empty one and none make no exception.
func TestBypassKey(t *testing.T) {
	for text, want := range map[string]Bypass{
		"": BypassND | BypassIKE | BypassDHCP, "bypass: []": 0, "bypass: none": 0, "bypass: nd": BypassND, "bypass: [dhcp, ike]": BypassDHCP | BypassIKE,
	} {
		c, faults := Parse("/nowhere/iked.yaml", []byte(text+"\n"+routeConf("", "")), time.Now())
		if c == nil || c.Bypass != want {
			t.Errorf("%q: %v, expected %v", text, faults, want)
		}
	}
	if _, faults := Parse("/nowhere/iked.yaml", []byte("bypass: [arp]\n"+routeConf("", "")), time.Now()); !faults.Failed() {
		t.Error("arp was taken")
	}
}
