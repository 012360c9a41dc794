#!/usr/bin/env bash
# Prints the path of a Kubernetes binary for the tests: kube-apiserver, kube-controller-manager, kubectl or helm; for tests with
# nodes also kube-scheduler, kubelet, kube-proxy, coredns, pause, metrics-server or kube-router.
#
# Looks in KUBEBUILDER_ASSETS, on PATH and in the cache; builds it from the Go module proxy when it is in none of them
# (docs/decisions/0003). A build takes minutes, so one run at a time builds and the others wait for its result.
set -euo pipefail

name=${1:?usage: kubernetes-binary.sh kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kube-proxy|coredns|pause|metrics-server|kube-router|kubectl|helm}
version=1.37.2
cache=${AUTOGLM_CACHE:-$HOME/.cache/autoglm}/kubernetes-$version
tools=$(cd "$(dirname "$0")" && pwd)/tools
package=k8s.io/kubernetes/cmd/$name
# Without the version flags kubectl and the clients see v0.0.0.
stamp=k8s.io/component-base/version
flags="-s -w -X $stamp.gitVersion=v$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=37"
if [[ $name == helm ]]; then
    version=3.22.0
    cache=${AUTOGLM_CACHE:-$HOME/.cache/autoglm}/helm-$version
    tools=${tools%/tools}/helm # a module of its own: helm wants other versions of Kubernetes' libraries
    package=helm.sh/helm/v3/cmd/helm
    # Without these helm takes every cluster that it does not ask for Kubernetes 1.20.
    helm=helm.sh/helm/v3
    flags="-s -w -X $helm/internal/version.version=v$version"
    for module in pkg/lint/rules pkg/chartutil; do
        flags+=" -X $helm/$module.k8sVersionMajor=1 -X $helm/$module.k8sVersionMinor=37"
    done
elif [[ $name == coredns || $name == pause ]]; then
    tools=${tools%/tools}/node
    version=$(sed -n 's|^require github.com/coredns/coredns v||p' "$tools/go.mod")
    cache=${AUTOGLM_CACHE:-$HOME/.cache/autoglm}/coredns-$version
    package=./$name
    flags="-s -w"
elif [[ $name == kube-router ]]; then
    tools=${tools%/tools}/policies
    version=$(sed -n 's|^.*github.com/cloudnativelabs/kube-router/v2 v\([^ ]*\).*$|\1|p' "$tools/go.mod")
    cache=${AUTOGLM_CACHE:-$HOME/.cache/autoglm}/kube-router-$version
    package=github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
    flags="-s -w"
elif [[ $name == metrics-server ]]; then
    tools=${tools%/tools}/metrics
    version=$(sed -n 's|^.*sigs.k8s.io/metrics-server v\([^ ]*\).*$|\1|p' "$tools/go.mod")
    cache=${AUTOGLM_CACHE:-$HOME/.cache/autoglm}/metrics-server-$version
    package=sigs.k8s.io/metrics-server/cmd/metrics-server
    flags="-s -w"
fi

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
        "install Go 1.26, or put $name on PATH ('setup-envtest use' and KUBEBUILDER_ASSETS for the control plane)" >&2
    exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [[ ! -x $cache/$name ]]; then
    echo "kubernetes-binary.sh: building $name $version once into $cache (minutes)" >&2
    building=$(mktemp "$cache/.$name.XXXXXX")
    trap 'rm -f "$building"' EXIT
    (cd "$tools" && GOFLAGS=-buildvcs=false CGO_ENABLED=0 nice -n "${BUILD_NICE:-10}" \
        go build -mod=readonly -trimpath -ldflags "$flags" -o "$building" "$package") 9>&- >&2
    chmod 755 "$building"
    mv -f "$building" "$cache/$name"
    trap - EXIT
fi
echo "$cache/$name"
