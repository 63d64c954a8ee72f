#!/usr/bin/env bash
# Builds the real servers that the scenarios and the demo run, from the versions
# pinned in the go.mod and go.sum of the folders beside this file.
#
#   build.sh [MODULE...]        build what is not built yet (default: kubernetes nats oidc
#                               secret-store)
#   build.sh where [MODULE...]  print "<tool> <path>" lines, build nothing
#
# Modules: kubernetes (etcd, kube-apiserver, kube-controller-manager,
# kube-scheduler, kubectl), nats (nats-server), oidc (oidc-provider: the sources are
# ours), secret-store (Vault 1.14.0, where OpenBao is not installed), kwok (only for
# the benchmark).
#
# Each module's binaries are in a folder named by the hash of its go.mod, its go.sum, its
# sources if it has any, the flags below and the Go version. Another pin is another folder,
# so a warm call compares only file names, and two checkouts with different pins do not
# overwrite each other. The folders are in $HARMONY_TOOLS_CACHE, by default
# ${XDG_CACHE_HOME:-~/.cache}/harmony-fleet/bin; `make path` and the harness ask `where`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${HARMONY_TOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/harmony-fleet/bin}

say() { printf 'tools: %s\n' "$*" >&2; }
die() {
    printf 'tools: error: %s\n' "$*" >&2
    exit 1
}

# "<tool>=<package>" of each module, in the order in which they are built.
packages() {
    case $1 in
        kubernetes)
            echo etcd=go.etcd.io/etcd/server/v3
            echo kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver
            echo kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager
            echo kube-scheduler=k8s.io/kubernetes/cmd/kube-scheduler
            echo kubectl=k8s.io/kubernetes/cmd/kubectl
            ;;
        nats) echo nats-server=github.com/nats-io/nats-server/v2 ;;
        oidc) echo oidc-provider=harmony-fleet/e2e/tools/oidc ;;
        secret-store) echo secret-store=harmony-fleet/e2e/tools/secret-store ;;
        kwok) echo kwok=sigs.k8s.io/kwok/cmd/kwok ;;
        *) die "no module '$1' (there are: kubernetes, nats, oidc, secret-store, kwok)" ;;
    esac
}

# Without a stamped version clients refuse the API server's answer
# ("v0.0.0-master+\$Format:%H\$" is no semantic version).
version_flags() {
    local module=$1 version base=k8s.io/component-base/version
    case $module in
        kubernetes)
            version=$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" { print $3 }' "$here/kubernetes/go.mod")
            [[ $version =~ ^v([0-9]+)\.([0-9]+)\. ]] || die "cannot read the version of k8s.io/kubernetes in kubernetes/go.mod"
            printf -- '-s -w -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s' \
                $base "$version" $base "${BASH_REMATCH[1]}" $base "${BASH_REMATCH[2]}"
            printf -- ' -X %s.gitTreeState=clean -X %s.buildDate=1970-01-01T00:00:00Z' $base $base
            ;;
        *) printf -- '-s -w' ;;
    esac
}

folder() {
    local hash
    hash=$({
        find "$here/$1" -maxdepth 1 \( -name go.mod -o -name go.sum -o -name '*.go' \) -print0 |
            sort -z | xargs -0 cat
        packages "$1"
        version_flags "$1"
        echo "$go_version"
    } | sha256sum | cut -c1-12)
    printf '%s/%s-%s' "$cache" "$1" "$hash"
}

# Counts the packages that `go build -v` names; other lines (errors) pass through.
progress() {
    awk -v module="$1" -v tty="$([[ -t 2 ]] && echo 1 || echo 0)" '
        /^(go: downloading) / { downloads++; next }
        /^[A-Za-z0-9.~\/_-]+$/ {
            n++
            if (tty) printf "\rtools: %s: %d packages compiled", module, n > "/dev/stderr"
            else if (n % 250 == 0) printf "tools: %s: %d packages compiled\n", module, n > "/dev/stderr"
            next
        }
        { print > "/dev/stderr" }
        END { if (tty && n) print "" > "/dev/stderr" }'
}

build() {
    local module=$1 out line staging started
    local -a missing=() targets=()
    out=$(folder "$module")
    while IFS= read -r line; do
        if [[ ! -x $out/${line%%=*} ]]; then
            missing+=("${line%%=*}")
            targets+=("${line#*=}")
        fi
    done < <(packages "$module")
    if ((${#missing[@]} == 0)); then
        return
    fi

    mkdir -p "$out"
    # A second call waits for the first instead of doing its work twice.
    exec 9>"$out/.lock"
    if ! flock -n 9; then
        say "$module: another build is running, waiting for it"
        flock 9
        exec 9>&-
        build "$module"
        return
    fi

    say "$module: building ${missing[*]} (minutes when nothing is cached)"
    started=$SECONDS
    staging=$(mktemp -d "$out/.staging.XXXXXX")
    (
        cd "$here/$module"
        CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -v -trimpath -buildvcs=false \
            -ldflags "$(version_flags "$module")" -o "$staging/" "${targets[@]}"
    ) 2> >(progress "$module") || {
        rm -rf "$staging"
        die "$module: go build failed (see above)"
    }
    local i name
    for i in "${!missing[@]}"; do
        # go names a binary after the last path element that is not a major version.
        name=${targets[$i]%/v[0-9]}
        mv "$staging/${name##*/}" "$out/${missing[$i]}"
    done
    rmdir "$staging"
    exec 9>&-
    say "$module: built in $((SECONDS - started)) s into $out"
}

where() {
    local module=$1 line out
    out=$(folder "$module")
    while IFS= read -r line; do
        printf '%s %s/%s\n' "${line%%=*}" "$out" "${line%%=*}"
    done < <(packages "$module")
}

command -v go >/dev/null || die "go is not on PATH; install Go 1.26 or newer"
go_version=$(go env GOVERSION)

action=build
if [[ ${1:-} == where ]]; then
    action=where
    shift
fi
modules=("$@")
((${#modules[@]})) || modules=(kubernetes nats oidc secret-store)
for module in "${modules[@]}"; do
    packages "$module" >/dev/null
    "$action" "$module"
done
