#!/usr/bin/env bash
# Runs every test: packages, format, vet, then the phases of tools/runtests.
# Without root it runs what needs none and says what it left out.
# PHASES=unit (or unit,race,vm,interop) limits the phases.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/packages.sh gcc libc6-dev nftables iproute2 user-mode-linux kmod busybox \
	strongswan-charon strongswan-swanctl libcharon-extra-plugins \
	libstrongswan-extra-plugins libstrongswan-standard-plugins libcharon-extauth-plugins ike-scan \
	freeradius python3-pamela krb5-kdc krb5-admin-server krb5-user

unformatted=$(gofmt -l $(git ls-files '*.go' 2>/dev/null || find . -name '*.go'))
if [ -n "$unformatted" ]; then
	printf 'not formatted (run make fmt):\n%s\n' "$unformatted" >&2
	exit 1
fi
make -s vet
mkdir -p bin
go build -o bin/runtests ./tools/runtests
exec bin/runtests -summary bin/test-summary -phases "${PHASES:-unit,race,vm,interop}"
