package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iked/internal/testnet"
)

// Every structure has the octets that a C compiler makes of the kernel's header.
func TestLayout(t *testing.T) {
	testnet.RequireCommand(t, "gcc", "gcc")
	testnet.RequireCommand(t, "/usr/include/linux/xfrm.h", "linux-libc-dev")
	bin := filepath.Join(t.TempDir(), "layout")
	if out, err := exec.Command("gcc", "-Wall", "-o", bin, "testdata/layout.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	s := samples()
	all := everything()
	body := func(typ Type, n int) []byte { return s[typ].Append(nil)[:n] }
	own := map[string][]byte{
		"selector": ptr(aSelector()).Append(nil), "sa": ptr(anSA()).append(nil), "sa_id": body(GetSA, SAIDLen), "template": ptr(aTemplate()).append(nil),
		"policy": ptr(aPolicy()).append(nil), "policy_id": body(GetPolicy, policyIDLen), "spi": body(AllocSPI, saInfoLen+8), "acquire": body(AcquireMsg, acquireLen),
		"expire": body(ExpireMsg, saInfoLen+8), "polexpire": body(PolExpire, policyInfoLen+8), "ae": body(GetAE, aeLen), "report": body(ReportMsg, 4+SelectorLen),
		"mapping": s[MappingMsg].Append(nil), "migrate": all.Migrate[0].append(nil), "kmaddress": all.KMAddress.append(nil), "encap": all.Encap.append(nil),
		"replay_esn": all.ReplayESN.append(nil), "replay": all.Replay.append(nil), "offload": all.Offload.append(nil), "filter": all.AddressFilter.append(nil),
		"aead": appendAlgorithm(nil, attrAlgAEAD, all.AlgAEAD)[4:], "spdinfo": s[NewSPDInfo].Append(nil)[8:32], "default": s[SetDefault].Append(nil),
	}
	seen := 0
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name == "numbers" {
			want := fmt.Sprintf("%d %d %d %d %d %d %d %d %d", NewSA, GetDefault, MappingMsg, MigrateMsg, attrMTimerThresh, attrIfID, attrOffloadDev, attrReplayESNVal, GroupMapping)
			if value != want {
				t.Errorf("numbers are %s, expected %s", value, want)
			}
			continue
		}
		seen++
		if got := hex.EncodeToString(own[name]); got != value {
			t.Errorf("%s:\n%s, the header says\n%s", name, got, value)
		}
	}
	if seen != len(own) {
		t.Errorf("the program wrote %d structures, expected %d", seen, len(own))
	}
}
