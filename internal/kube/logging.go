package kube

import (
	"bytes"
	"context"
	"flag"
	"io"
	"log"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	_ "unsafe" // go:linkname

	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"k8s.io/klog/v2"
)

// The parts of the control plane log through three loggers that belong to the process: klog (Kubernetes), logrus (kine) and the standard
// library's (CoreDNS, net/http). All three are quiet on the terminal here; their warnings and errors go to the cluster's slog.Logger. A fourth,
// that of the API server's etcd client, writes straight to stderr and tells of every request that was cancelled: it is replaced by none.

//go:linkname etcdClientLogger k8s.io/apiserver/pkg/storage/storagebackend/factory.etcd3ClientLogger
var etcdClientLogger *zap.Logger

// givingUp is how long what was left behind may go on trying before it takes its failure for fatal: an API server's first steps do for half a minute.
const givingUp = time.Minute

// lastHush is when parts of this process were told to stop last. Which cluster a goroutine belongs to cannot be told, so within givingUp of that
// nothing ends a process for the next one either: what is fatal to it is in its log, and it does not become ready.
var lastHush atomic.Pointer[time.Time]

// bridgeLogs points the loggers at l until restore is called. After hush, what they say counts as debug: parts that are told to stop
// complain of one another's end. Nor do they end the process then, as an API server does that is told to stop before all of it has started: the
// goroutine ends that has given up. Of those that were left behind this holds for another minute, whatever is called then.
func bridgeLogs(l *slog.Logger) (hush, restore func()) {
	var hushed atomic.Bool
	l = slog.New(&hushable{l.Handler(), &hushed})
	etcdClientLogger = zap.NewNop()
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	for name, value := range map[string]string{"logtostderr": "false", "one_output": "true", "stderrthreshold": "FATAL"} {
		if err := fs.Set(name, value); err != nil { // cannot be: the flags are klog's own
			panic(err)
		}
	}
	klog.SetOutputBySeverity("INFO", io.Discard)
	klog.SetOutputBySeverity("WARNING", &lineLogger{log: l, level: slog.LevelWarn, clean: afterBracket})
	klog.SetOutputBySeverity("ERROR", &lineLogger{log: l, level: slog.LevelError, clean: afterBracket})
	klog.SetOutputBySeverity("FATAL", &lineLogger{log: l, level: slog.LevelError, clean: afterBracket})

	klog.OsExit = func(code int) {
		if last := lastHush.Load(); hushed.Load() || last != nil && time.Since(*last) < givingUp {
			runtime.Goexit()
		}
		os.Exit(code)
	}

	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.WarnLevel)
	hooks := logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(logrusHook{l})

	oldWriter, oldFlags := log.Writer(), log.Flags()
	log.SetFlags(0)
	log.SetOutput(&lineLogger{log: l, level: slog.LevelDebug, leveled: true, clean: strings.TrimSpace})
	hush = func() {
		hushed.Store(true)
		now := time.Now()
		lastHush.Store(&now)
	}
	return hush, func() {
		log.SetFlags(oldFlags)
		log.SetOutput(oldWriter)
		logrus.StandardLogger().ReplaceHooks(hooks)
	}
}

// hushable is a slog.Handler whose records can be made debug ones.
type hushable struct {
	slog.Handler
	hushed *atomic.Bool
}

func (h *hushable) Handle(ctx context.Context, r slog.Record) error {
	if h.hushed.Load() && r.Level > slog.LevelDebug {
		if r.Level = slog.LevelDebug; !h.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
}

// harmless are warnings and errors of a healthy start.
var harmless = []string{"because it has no resources.", "The manifest file is empty, ignoring.", "Resetting endpoints for master service",
	`namespaces \"kube-system\" not found`, "context canceled"}

// lineLogger is an io.Writer that logs each line.
type lineLogger struct {
	log     *slog.Logger
	level   slog.Level
	leveled bool // lines may begin with their level, as CoreDNS writes it: "[WARNING] "
	clean   func(string) string

	mu sync.Mutex // writers do not take turns
}

func (w *lineLogger) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range bytes.Lines(p) {
		text, level := w.clean(string(line)), w.level
		if w.leveled {
			text, level = leveledLine(text, level)
		}
		if slices.ContainsFunc(harmless, func(h string) bool { return strings.Contains(text, h) }) {
			level = slog.LevelDebug
		}
		if text != "" {
			w.log.Log(context.Background(), level, text)
		}
	}
	return len(p), nil
}

// afterBracket cuts klog's header ("E1122 01:02:03.000004      15 file.go:42] ") down to its place.
func afterBracket(line string) string {
	line = strings.TrimSpace(line)
	head, text, ok := strings.Cut(line, "] ")
	if !ok {
		return line
	}
	return head[strings.LastIndexByte(head, ' ')+1:] + ": " + text
}

// leveledLine takes CoreDNS's level off a line; plain is for lines that have none.
func leveledLine(line string, plain slog.Level) (string, slog.Level) {
	for prefix, level := range map[string]slog.Level{"[ERROR] ": slog.LevelError, "[FATAL] ": slog.LevelError, "[WARNING] ": slog.LevelWarn,
		"[INFO] ": slog.LevelDebug, "[DEBUG] ": slog.LevelDebug} {
		if text, ok := strings.CutPrefix(line, prefix); ok {
			return text, level
		}
	}
	return line, plain
}

// logrusHook passes kine's warnings on.
type logrusHook struct{ log *slog.Logger }

func (h logrusHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.WarnLevel, logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel}
}

func (h logrusHook) Fire(e *logrus.Entry) error {
	level := slog.LevelError
	if e.Level == logrus.WarnLevel {
		level = slog.LevelWarn
	}
	h.log.Log(context.Background(), level, "kine: "+e.Message)
	return nil
}
