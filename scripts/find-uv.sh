#!/usr/bin/env bash
# Prints the path of a usable uv: the one on PATH, else one kept in .uv/ (made here the first time).
set -euo pipefail

version=0.13.9
root=$(cd "$(dirname "$0")/.." && pwd)

if command -v uv; then
    exit 0
fi
if [[ ! -x $root/.uv/bin/uv ]]; then
    python=$(command -v python3.11 || command -v python3.12 || command -v python3)
    echo "find-uv.sh: no uv on PATH, installing uv $version into .uv/" >&2
    rm -rf "$root/.uv"
    "$python" -m venv "$root/.uv" >&2
    "$root/.uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$version" >&2
fi
echo "$root/.uv/bin/uv"
