#!/usr/bin/env bash
# Prints the path of a part of KubeRay for the tests: "crds" (a folder with its custom resource definitions), "config" (the folder
# from which it is installed: `kubectl apply -k PATH/default`) or "operator" (the binary, which takes minutes to build, once).
#
# Both come from the Go module of KubeRay (Apache License 2.0) by the Go module proxy, and are kept in the cache.
set -euo pipefail

part=${1:?usage: kuberay.sh crds|config|operator}
module=github.com/ray-project/kuberay/ray-operator
source=$(cd "$(dirname "$0")" && pwd)/kuberay
version=$(sed -n "s|^.*$module v\([^ ]*\).*$|\1|p" "$source/go.mod")
cache=${AUTOGLM_CACHE:-$HOME/.cache/autoglm}/kuberay-$version

case $part in
crds | config) wanted=$cache/$part ;;
operator) wanted=$cache/kuberay-operator ;;
*) echo "kuberay.sh: there is no part $part" >&2 && exit 2 ;;
esac
if [[ -e $wanted ]]; then
    echo "$wanted"
    exit 0
fi
if ! command -v go >/dev/null; then
    echo "kuberay.sh: there is no Go to get KubeRay: install Go 1.26" >&2
    exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [[ ! -e $wanted && $part != operator ]]; then
    folder=$(cd "$source" && go list -mod=readonly -m -f '{{.Dir}}' "$module" || true)
    if [[ -z $folder ]]; then
        folder=$(cd "$source" && go mod download -json "$module" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
    fi
    made=$(mktemp -d "$cache/.$part.XXXXXX")
    [[ $part == crds ]] || cp -r "$folder"/config/* "$made"
    [[ $part == config ]] || cp "$folder/config/crd/bases/ray.io_rayservices.yaml" "$folder/config/crd/bases/ray.io_rayclusters.yaml" \
        "$folder/config/crd/bases/ray.io_rayjobs.yaml" "$folder/config/crd/bases/ray.io_raycronjobs.yaml" "$made"
    chmod -R u+w "$made"
    mv "$made" "$wanted"
elif [[ ! -e $wanted ]]; then
    echo "kuberay.sh: building the KubeRay operator $version once into $cache (minutes)" >&2
    made=$(mktemp "$cache/.operator.XXXXXX")
    (cd "$source" && GOFLAGS=-buildvcs=false CGO_ENABLED=0 nice -n "${BUILD_NICE:-10}" \
        go build -mod=readonly -trimpath -ldflags "-s -w" -o "$made" "$module") 9>&- >&2
    chmod 755 "$made"
    mv "$made" "$wanted"
fi
echo "$wanted"
