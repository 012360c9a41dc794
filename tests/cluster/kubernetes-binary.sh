#!/usr/bin/env bash
# Prints the path of a Kubernetes binary for the tests: kube-apiserver, kube-controller-manager or kubectl.
#
# Looks in KUBEBUILDER_ASSETS, on PATH and in the cache; builds it from the Go module proxy when it is in none of them
# (docs/decisions/0003). A build takes minutes, so one run at a time builds and the others wait for its result.
set -euo pipefail

name=${1:?usage: kubernetes-binary.sh kube-apiserver|kube-controller-manager|kubectl}
version=1.37.2
cache=${AUTOGLM_CACHE:-$HOME/.cache/autoglm}/kubernetes-$version
tools=$(cd "$(dirname "$0")" && pwd)/tools

if [[ -n ${KUBEBUILDER_ASSETS:-} && -x $KUBEBUILDER_ASSETS/$name ]]; then
    echo "$KUBEBUILDER_ASSETS/$name"
    exit 0
fi
if command -v "$name"; then
    exit 0
fi
if [[ -x $cache/$name ]]; then
    echo "$cache/$name"
    exit 0
fi

if ! command -v go >/dev/null; then
    echo "kubernetes-binary.sh: $name is not on PATH or in KUBEBUILDER_ASSETS, and there is no Go to build it:" \
        "install Go 1.26, or run 'setup-envtest use ${version%.*}' and set KUBEBUILDER_ASSETS" >&2
    exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [[ ! -x $cache/$name ]]; then
    echo "kubernetes-binary.sh: building $name $version once into $cache (minutes)" >&2
    # Without the version flags kubectl and the clients see v0.0.0.
    stamp=k8s.io/component-base/version
    flags="-s -w -X $stamp.gitVersion=v$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=37"
    building=$(mktemp "$cache/.$name.XXXXXX")
    trap 'rm -f "$building"' EXIT
    (cd "$tools" && GOFLAGS=-buildvcs=false CGO_ENABLED=0 nice -n "${BUILD_NICE:-10}" \
        go build -mod=readonly -trimpath -ldflags "$flags" -o "$building" "k8s.io/kubernetes/cmd/$name") 9>&- >&2
    chmod 755 "$building"
    mv -f "$building" "$cache/$name"
    trap - EXIT
fi
echo "$cache/$name"
