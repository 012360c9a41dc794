#!/usr/bin/env bash
# Installs what `autoglm screens make` draws with: Chromium, and the fonts that the pages name.
# Debian and Ubuntu only; elsewhere, install a Chromium or Chrome and these fonts by hand. `make test` never calls this.
set -euo pipefail

packages=(chromium fonts-dejavu fonts-liberation fonts-wqy-zenhei)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
    echo "Chromium and its fonts are here already"
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "no apt-get on this machine: install these by hand: ${missing[*]}" >&2
    exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
