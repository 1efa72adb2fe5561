package engine_test

import ("testing";"os";"runtime/pprof")

func memoryProfile(b *testing.B, name string) {
	f, _ := os.Create("/tmp/memprof-"+name)
	pprof.Lookup("heap").WriteTo(f, 0)
	f.Close()
}
