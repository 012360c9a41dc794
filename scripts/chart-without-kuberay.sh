#!/usr/bin/env bash
# Writes a copy of the chart that does not name KubeRay's as a dependency, for machines that cannot fetch it:
# Helm refuses to work with a chart whose dependency is missing, also while its condition is false.
set -euo pipefail

target=${1:?usage: chart-without-kuberay.sh FOLDER (made by this script)}
chart=$(cd "$(dirname "$0")/../charts/autoglm" && pwd)
if [[ -e $target ]]; then
    echo "chart-without-kuberay.sh: $target is there already" >&2
    exit 1
fi
mkdir -p "$(dirname "$target")"
cp -R "$chart" "$target"
rm -rf "$target/charts" "$target/Chart.lock"
sed -i.bak '/^dependencies:/,/^[^ ]/{/^dependencies:/d;/^ /d}' "$target/Chart.yaml"
rm "$target/Chart.yaml.bak"
echo "$target"
