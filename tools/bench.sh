#!/usr/bin/env bash
# Runs the Go benchmarks, measures iked side by side with wireguard-go and
# strongSwan, and writes both into docs/performance.md. BENCHTIME (default 3s) and
# ROUNDS (default 3); with ONLY=contender,… only those are measured and nothing is
# written.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/packages.sh strongswan-charon strongswan-swanctl libcharon-extra-plugins libstrongswan-standard-plugins krb5-kdc krb5-admin-server
mkdir -p bin
(cd tools/bench && go build -o ../../bin/bench . && CGO_ENABLED=0 go build -o ../../bin/wireguard-go golang.zx2c4.com/wireguard)
doc=()
if [ -z "${ONLY:-}" ]; then
	go test -run '^$' -benchtime 300ms -bench 'Seal|Open|Lookup|Apply|Handshake|Memory' \
		./datapath/esp ./spd ./internal/engine | tee bin/gobench.txt
	doc=(-doc docs/performance.md -go bin/gobench.txt)
fi
bin/bench -iked "$PWD/bin/iked" -ikectl "$PWD/bin/ikectl" -wireguard "$PWD/bin/wireguard-go" \
	-time "${BENCHTIME:-3s}" -rounds "${ROUNDS:-3}" -only "${ONLY:-}" -o "${OUT:-}" "${doc[@]}"
