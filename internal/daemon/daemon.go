// Package daemon is iked as a process: the only place where configuration,
// sockets, backend, engine, control protocol, log and signals are wired together.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/backend"
	"iked/internal/engine"
	"iked/internal/heartbeat"
	"iked/internal/trace"
	"iked/internal/transport"
	"iked/kink/krb"
	"iked/xfrm/iface"
)

// Defaults of the command line.
const (
	DefaultConfig  = "/etc/iked/iked.yaml"
	DefaultControl = "unix:///run/iked/iked.vici"
	DefaultState   = "/var/lib/iked"
)

// Options are the command line. An empty string means: as the configuration
// says, else the default.
type Options struct {
	Config    string
	Control   string
	State     string
	Backend   string
	LogLevel  string
	LogFormat string
	// Check only checks the configuration.
	Check   bool
	Version string
	// Stderr gets log and faults.
	Stderr io.Writer
	// Ready, when not nil, is called when the daemon serves. For tests.
	Ready func(*engine.Engine)
}

// stopTime bounds how long the deletion of SAs may take at the end.
const stopTime = 3 * time.Second

// ErrConfig says that the configuration has faults, which were printed.
var ErrConfig = errors.New("the configuration has faults")

// Run is the daemon, from reading its configuration to the removal of all that
// it put into the system. It returns when ctx ends or a signal says so.
func Run(ctx context.Context, o Options) error {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	cfg, warnings, err := load(&o)
	if err != nil {
		return err
	}
	if o.Check {
		printFaults(o.Stderr, warnings)
		fmt.Fprintf(o.Stderr, "%s: no faults, %d connections\n", describeFile(cfg), len(cfg.Connections))
		return errors.Join(checkKerberos(&o, cfg), checkBackend(&o, cfg))
	}
	logger, err := newLogger(o.Stderr, pick(o.LogLevel, cfg.Log.Level, "info"), pick(o.LogFormat, cfg.Log.Format, "text"))
	if err != nil {
		return err
	}
	defer logger.close()
	for _, f := range warnings {
		logger.warn(trace.CFG, "%s", f)
	}
	heartbeat.Start()
	d := &process{opt: o, log: logger, cfg: cfg}
	defer d.cleanup()
	if err := d.start(); err != nil {
		return err
	}
	return d.serve(ctx)
}

func pick(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

func describeFile(c *conf.Config) string {
	if c.File == "" {
		return "no configuration file"
	}
	return c.File
}

func printFaults(w io.Writer, faults conf.Faults) {
	for _, f := range faults {
		fmt.Fprintln(w, f)
	}
}

// load reads the configuration. All faults of one that cannot be used are printed;
// of one that can, the warnings are returned. Without a file at the default place
// the daemon starts empty.
func load(o *Options) (*conf.Config, conf.Faults, error) {
	file := o.Config
	if file == "" {
		file = DefaultConfig
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return conf.Empty(), nil, nil
		}
	}
	cfg, faults := conf.Load(file, time.Now())
	if faults.Failed() || cfg == nil {
		printFaults(o.Stderr, faults)
		return nil, nil, fmt.Errorf("%s: %w", file, ErrConfig)
	}
	return cfg, append(faults, hookFaults(cfg)...), nil
}

// process is what runs; cleanup takes it down in reverse order.
type process struct {
	opt    Options
	log    *logger
	cfg    *conf.Config
	state  *stateDir
	trans  *transport.Transport
	kink   *kinkPort
	replay *krb.Replay // of Kerberos; nil: none was needed yet
	back   backend.Backend
	engine *engine.Engine
	atomic atomic.Pointer[engine.Engine]
	ctl    ControlServer
	lis    net.Listener
	left   *backend.Leftovers // of a daemon with the other backend
	table  net.Listener       // the lock of the routing table
	choice choice
	links  *iface.Manager
	addrs  *networkWatch
	notify notifier
}

func (d *process) start() error {
	var err error
	d.notify = newNotifier()
	if d.state, err = openState(pick(d.opt.State, DefaultState), d.log.record); err != nil {
		return err
	}
	if err := d.chooseBackend(); err != nil {
		return err
	}
	if err := d.openTransport(); err != nil {
		return err
	}
	if err := d.openBackend(); err != nil {
		return err
	}
	d.kink = &kinkPort{d: d}
	d.engine, err = engine.New(engine.Options{
		KINK: d.kink, Kerberos: d.kerberos,
		Backend: d.back, Why: d.choice.why, Interfaces: d.interfaces(), Transport: d.trans, Resolver: markedResolver(d.mark()), Routes: markedRoutes{d.mark()},
		Users: newUsers(d.log),
		DNS:   newResolvFile(pick(d.opt.Control, d.cfg.Control.Socket, DefaultControl), pick(d.opt.State, DefaultState)),
		Store: d.state, Log: d.log.record, LogLevel: d.log.traceLevel(), Load: d.reread, Version: d.opt.Version,
	})
	if err != nil {
		return err
	}
	d.atomic.Store(d.engine)
	if err := d.openControl(); err != nil {
		return err
	}
	if _, err := d.engine.Apply(context.Background(), d.cfg); err != nil {
		return err
	}
	if d.addrs, err = watchNetwork(d.engine.NetworkChanged); err != nil {
		d.log.warn(trace.DMN, "changes of the addresses and routes of this host are not noticed: %v", err)
	}
	// Before anything of a stranger's is read.
	if err := dropPrivileges(); err != nil {
		d.log.warn(trace.DMN, "privileges that are not needed could not be dropped: %v", err)
	}
	d.trans.Start()
	d.kink.start()
	return nil
}

func (d *process) transportOptions() transport.Options {
	return transport.Options{
		Port: d.cfg.Port, PortNATT: d.cfg.PortNATT, Mark: d.mark(), Queues: d.queues(), Log: d.log.record, OnDatagram: d.receive,
		KernelESP: d.choice.name == conf.BackendKernel,
	}
}

// openTransport opens the sockets; a port that is taken is told with who has it.
func (d *process) openTransport() error {
	var err error
	d.trans, err = transport.New(d.transportOptions())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; %s; stop it, or set port and port_nat_t", err, whoHas(d.cfg.Port, d.cfg.PortNATT))
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: ports below 1024 need root or CAP_NET_BIND_SERVICE; run as root, or set port and port_nat_t above 1023", err)
	}
	return err
}

func (d *process) receive(m transport.Datagram) {
	if e := d.atomic.Load(); e != nil {
		e.Receive(ikev2.Datagram{Local: m.Local, Remote: m.Remote, NATT: m.NATT, Data: m.Data})
	}
}

func (d *process) mark() uint32 {
	if d.cfg.Datapath.Mark != 0 {
		return d.cfg.Datapath.Mark
	}
	return transport.DefaultMark
}

// reread is what a reload reads. The file that was named once must still be
// there; at the default place it may have come or gone.
func (d *process) reread() (*conf.Config, error) {
	file := d.opt.Config
	if file == "" {
		file = DefaultConfig
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return conf.Empty(), nil
		}
	}
	cfg, faults := conf.Load(file, time.Now())
	if faults.Failed() || cfg == nil {
		return nil, fmt.Errorf("%s is faulty, nothing was changed: %w", file, faults.Err())
	}
	for _, f := range append(faults, hookFaults(cfg)...) {
		d.log.warn(trace.CFG, "%s", f)
	}
	return cfg, nil
}

// serve runs until it is told to stop.
func (d *process) serve(ctx context.Context) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	if d.ctl != nil {
		go func() {
			if err := d.ctl.Serve(d.lis); err != nil {
				d.log.warn(trace.DMN, "control socket: %v", err)
			}
		}()
	}
	d.log.info(trace.DMN, "iked %s serves: %s; %s backend, %s (%s); %s", d.opt.Version, d.trans.Describe(),
		d.choice.name, d.choice.why, d.back.Describe().Detail, describeFile(d.cfg))
	d.notify.send("READY=1\nSTATUS=serving")
	if d.opt.Ready != nil {
		d.opt.Ready(d.engine)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-signals:
			if s != syscall.SIGHUP {
				d.log.info(trace.DMN, "%s: IKE SAs are deleted, then iked ends", s)
				go func() {
					<-signals // again: no patience left
					os.Exit(130)
				}()
				return nil
			}
			d.reload(ctx)
		}
	}
}

func (d *process) reload(ctx context.Context) {
	d.notify.reloading()
	lines, err := d.engine.Reload(ctx, false)
	note := func(warn bool, format string, args ...any) {
		d.engine.Note(trace.Record{Level: trace.Control, Group: trace.CFG, Warn: warn, Msg: "reload: " + fmt.Sprintf(format, args...)})
	}
	switch {
	case err != nil:
		note(true, "%v", err)
	case len(lines) == 0:
		note(false, "nothing changed")
	default:
		for _, l := range lines {
			note(false, "%s", l)
		}
	}
	d.notify.send("READY=1")
}

// cleanup deletes SAs, policies, routes and devices. Each part may be missing
// when start failed.
func (d *process) cleanup() {
	d.notify.send("STOPPING=1")
	d.addrs.close()
	if d.engine != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		if err := d.engine.Close(ctx); err != nil {
			d.log.warn(trace.DMN, "stop: %v", err)
		}
		cancel()
	}
	if d.ctl != nil {
		d.ctl.Close()
	}
	if d.lis != nil {
		d.lis.Close()
	}
	if d.back != nil {
		if err := d.back.Close(); err != nil {
			d.log.warn(trace.DMN, "stop: %v", err)
		}
	}
	d.endLeft()
	if d.table != nil {
		d.table.Close()
	}
	d.kink.close()
	if d.replay != nil {
		if err := d.replay.Close(); err != nil {
			d.log.warn(trace.DMN, "stop: %v", err)
		}
	}
	if d.trans != nil {
		d.trans.Close()
	}
	if d.links != nil {
		d.links.End()
	}
	if d.state != nil {
		d.state.close()
	}
}
