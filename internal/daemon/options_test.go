package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/internal/trace"
)

// Ports, the keys of the datapath, of the log and of the control socket reach what
// they are about.
func TestOptionsFollowTheConfiguration(t *testing.T) {
	group := strconv.Itoa(os.Getgid())
	cfg, faults := conf.Parse("/nowhere/iked.yaml", []byte(`
port: 501
port_nat_t: 4501
datapath: {mtu: 1300, queues: 3, device: tunnel7, table: 77, rule_priority: 78, mark: 79, hop_limit: 33, reassembly_memory: 128k, acquire_queue: 5}
log: {level: debug, format: json}
control: {owner: "`+strconv.Itoa(os.Getuid())+`", group: "`+group+`", mode: "0640"}
`), time.Now())
	if err := faults.Err(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log, err := newLogger(&out, cfg.Log.Level, cfg.Log.Format)
	if err != nil {
		t.Fatal(err)
	}
	d := &process{cfg: cfg, log: log}
	o := d.datapathOptions()
	if o.MTU != 1300 || o.Queues != 3 || o.Device != "tunnel7" || o.Table != 77 || o.Priority != 78 || o.Mark != 79 || o.HopLimit != 33 || o.FragMemory != 128<<10 || o.HoldFrames != 5 {
		t.Errorf("datapath: %+v", o)
	}
	if x := d.transportOptions(); x.Port != 501 || x.PortNATT != 4501 || x.Mark != 79 || x.Queues != 3 {
		t.Errorf("transport: %+v", x)
	}
	log.record(trace.Record{Level: trace.Detail, Group: trace.CFG, Msg: "detail"})
	log.record(trace.Record{Level: trace.Raw, Group: trace.CFG, Msg: "octets"})
	log.close()
	if s := out.String(); !strings.Contains(s, `"msg":"detail"`) || strings.Contains(s, "octets") {
		t.Errorf("log at level debug: %s", s)
	}
	path := filepath.Join(t.TempDir(), "iked.vici")
	l, err := listen("unix://"+path, cfg.Control)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("control socket: %v, %v, expected mode 0640", st, err)
	}
	for _, c := range []conf.Control{{Owner: "nobody-of-this-name"}, {Group: "nobody-of-this-name"}} {
		if l, err := listen("unix://"+filepath.Join(t.TempDir(), "x"), c); err == nil {
			l.Close()
			t.Errorf("an owner that does not exist was taken: %+v", c)
		}
	}
}
