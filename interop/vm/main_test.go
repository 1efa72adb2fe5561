package vm

import (
	"testing"

	"iked/internal/backend/backendtest"
	"iked/internal/uml"
)

func TestMain(m *testing.M) { uml.Main(m, uml.Options{}) }

func TestUserspace(t *testing.T) {
	uml.Require(t)
	backendtest.RunPair(t, Userspace(), Userspace(), nil)
}
