// Package heartbeat keeps the Go scheduler from sleeping through a stopped world.
//
// As of Go 1.26 a thread that enters a system call in the moment in which the world is
// being stopped, as the garbage collector does several times a minute, keeps its
// processor: runtime.reentersyscall looks whether the world is being stopped before it
// says that it is in a system call, and who stops the world looks once. What takes the
// processor away then is the runtime's monitor, which meanwhile sleeps until the next
// timer is due, or a minute. For so long the whole program stands still if that system
// call waits for a packet that does not come. A timer that is always due soon bounds it.
package heartbeat

import (
	"sync"
	"time"
)

// Interval is how long the world stays stopped at most for that reason.
const Interval = 50 * time.Millisecond

var once sync.Once

// Start begins the heartbeat of this process, once. It never ends.
func Start() { once.Do(beat) }

func beat() { time.AfterFunc(Interval, beat) }
