#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 10s), or those of the packages given
# as arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${FUZZTIME:-10s}
for pkg in $(go list "${@:-./...}"); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "== $pkg $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg"
	done
done
