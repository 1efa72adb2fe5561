package main

import (
	"strings"
	"testing"

	"iked/vici/wire"
)

// What SAs are bound to stands at the end of their line, as it is configured, and
// nothing stands there when they are bound to nothing.
func TestBoundIsShown(t *testing.T) {
	var m wire.Message
	for k, v := range map[string]string{"name": "net", "mode": "TRANSPORT", "protocol": "AH", "if-id-in": "0000002a", "if-id-out": "0000002a",
		"mark-in": "00000001", "mark-out": "00000020", "mark-mask-out": "000000f0"} {
		m.Set(k, v)
	}
	var b strings.Builder
	showChild(&b, childOf(m))
	if want := ", TRANSPORT, AH:, if_id 0x0000002a, mark in 0x00000001, mark out 0x00000020/0x000000f0\n"; !strings.Contains(b.String(), want) {
		t.Errorf("got %q, expected it to contain %q", b.String(), want)
	}
	if s := (trafView{Bytes: 1, Packets: 2, Replayed: 3, BadICV: 4}).String(); !strings.HasSuffix(s, ", 3 replayed, 4 not authentic") {
		t.Errorf("what was refused: %q", s)
	}
	if s := bound("", "", ""); s != "" {
		t.Errorf("bound to nothing: %q", s)
	}
}
