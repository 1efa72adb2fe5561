#!/usr/bin/env bash
# Installs the Debian packages given as arguments, as root, unless they are there.
set -euo pipefail

missing=()
for p in "$@"; do
	if ! dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed; then
		missing+=("$p")
	fi
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "LEFT OUT: not root, so these Debian packages are not installed: ${missing[*]}" >&2
	exit 0
fi
install() {
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}
echo "installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! install >"$log" 2>&1; then
	echo "once more, the first try failed:" >&2
	tail -n 5 "$log" >&2
	sleep 5
	if ! install >"$log" 2>&1; then
		cat "$log" >&2
		exit 1
	fi
fi
