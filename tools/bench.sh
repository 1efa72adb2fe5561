#!/usr/bin/env bash
# Measures iked side by side with wireguard-go and strongSwan, then runs the Go
# benchmarks. BENCHTIME (default 5s), ONLY=contender,… and OUT=file for the table.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/packages.sh strongswan-charon strongswan-swanctl libcharon-extra-plugins libstrongswan-standard-plugins
mkdir -p bin
(cd tools/bench && go build -o ../../bin/bench . && CGO_ENABLED=0 go build -o ../../bin/wireguard-go golang.zx2c4.com/wireguard)
bin/bench -iked "$PWD/bin/iked" -ikectl "$PWD/bin/ikectl" -wireguard "$PWD/bin/wireguard-go" \
	-time "${BENCHTIME:-5s}" -only "${ONLY:-}" -o "${OUT:-}"
if [ -z "${ONLY:-}" ]; then
	go test -run '^$' -bench . -benchmem ./...
fi
