package offer

import (
	"fmt"

	"iked/internal/keyex"
)

// Full tells whether a child has as many pairs as it may, of those in a list; replaced
// ones do not count.
func Full(cfg *keyex.ChildConfig, list []*keyex.Child, replaced func(*keyex.Child) bool) bool {
	n := 0
	for _, c := range list {
		if c.Config == cfg && !replaced(c) {
			n++
		}
	}
	return cfg.Limit > 0 && n >= cfg.Limit
}

// FullWords say that a child is full, and what to do.
func FullWords(cfg *keyex.ChildConfig) (sentence, advice string) {
	return fmt.Sprintf("%s has %d CHILD_SAs, which is its pfp_limit", cfg.Name, cfg.Limit), "raise pfp_limit, or flag fewer selectors in pfp"
}

// InstallWords say that the backend does not take a pair, and what to do.
func InstallWords(cfg *keyex.ChildConfig, err error) (sentence, advice string) {
	return fmt.Sprintf("CHILD_SA %s cannot be installed: %v", cfg.Name, err), keyex.InstallAdvice(err, "see the backend in `ikectl status`")
}
