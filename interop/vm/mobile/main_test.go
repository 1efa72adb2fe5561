package mobile

import (
	"testing"

	"iked/internal/uml"
	"iked/interop/vm"
)

func TestMain(m *testing.M) { uml.Main(m, vm.Guest) }
