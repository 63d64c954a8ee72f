#!/usr/bin/env bash
# Podman 5 on a machine whose own Podman is older: Debian 13's, out of a root file
# system of its own.
#
#   podman5.sh build          make the root file system, unless it is there
#   podman5.sh run COMMAND…   run a command with Debian 13's /usr in place of the machine's
#   podman5.sh where          print the root file system's path
#
# `run` changes nothing for anybody else: the other /usr is mounted in a mount
# namespace that ends with the command and what it started. All other paths are the
# machine's, so that tests, agent and Podman agree about sockets, logs and volumes.
# /usr/local stays, because Go may be there.
#
# The root file system lies in ${XDG_CACHE_HOME:-~/.cache}/harmony-fleet, in a folder
# named by the hash of what was asked of it; it is as new as the day on which it was made.
set -euo pipefail

suite=trixie
cache=${XDG_CACHE_HOME:-$HOME/.cache}/harmony-fleet
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What tests and agent read of Debian 13 outside of /usr.
outside_usr=(/etc/alternatives /etc/containers /etc/ld.so.cache /var/lib/dpkg)

say() { printf 'podman5: %s\n' "$*" >&2; }
die() {
    printf 'podman5: error: %s\n' "$*" >&2
    exit 1
}

# What Debian calls essential (shell, tar, …) is there without being asked for.
packages() {
    cut -d' ' -f1 <<'LIST'
podman Podman itself
runc the container runtime that works with both versions of control groups
conmon watches each container for Podman
netavark gives pods their network
nftables how this netavark writes its rules, and does not depend on
aardvark-dns resolves names between containers
catatonit holds the namespaces of a pod
busybox-static the content of the test image
iptables devices that are reached by nobody
iproute2 a network namespace for each device
mount the mounts of `run`, and small disks of devices
procps kill
curl asks services
libfaketime a device whose clock is wrong
LIST
}

# Documentation would be a third of it.
without=(/usr/share/doc/\* /usr/share/man/\* /usr/share/locale/\* /usr/share/info/\*)

root() {
    local asked
    asked=$(echo "$suite $(dpkg --print-architecture) ${without[*]}" && packages)
    printf '%s/debian13-%s' "$cache" "$(sha256sum <<<"$asked" | cut -c1-12)"
}

# The mirror that this machine's own packages come from; nothing where they are not Debian's.
mirror() {
    apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "main" { print $3; exit }'
}

build() {
    local root started include opt
    local -a options=() from=()
    command -v apt-get >/dev/null || die "this is not Debian, and Podman 5 comes out of Debian 13's packages"
    root=$(root)
    if [[ -e $root ]]; then
        return
    fi
    ((EUID == 0)) || die "a root file system is made by root: sudo $0 build"
    "$tools/install.sh" mmdebstrap
    mkdir -p "$cache"
    exec 9>"$cache/.debian13.lock"
    if ! flock -n 9; then
        say "another build is running, waiting for it"
        flock 9
    fi
    if [[ -e $root ]]; then
        return
    fi
    say "making a root file system of Debian 13 in $root, for its Podman 5 (a minute, 90 MB to download, once)"
    started=$SECONDS
    staging=$(mktemp -d "$cache/.debian13.XXXXXX")
    trap 'rm -rf "$staging"' EXIT
    include=$(packages | paste -sd,)
    for opt in "${without[@]}"; do
        options+=("--dpkgopt=path-exclude=$opt")
    done
    mapfile -t from < <(mirror)
    # A mount namespace, so that none of its mounts outlives it.
    if ! unshare --mount mmdebstrap --verbose --variant=essential --format=directory \
        --include="$include" "${options[@]}" "$suite" "$staging/root" "${from[@]}" >"$staging/log" 2>&1; then
        tail -n 20 "$staging/log" >&2
        die "apt could not give Debian 13's packages${from[0]:+ from ${from[0]}}: what it said stands above." \
            "It needs that mirror (a network, a proxy in http_proxy) and the keys of Debian 13" \
            "(apt-get install --only-upgrade debian-archive-keyring)"
    fi
    chmod 755 "$staging/root"
    mv -T "$staging/root" "$root"
    say "$(version "$root") is ready after $((SECONDS - started)) s, $(du -sm "$root" | cut -f1) MB"
}

version() {
    dpkg-query --admindir="$1/var/lib/dpkg" --showformat='podman ${Version}' --show podman
}

run() {
    local root
    root=$(root)
    [[ -e $root ]] || die "the root file system is not there; make it: $0 build"
    ((EUID == 0)) || die "mounting another /usr needs root"
    # Killed runs are cleaned up by the next one, which has to be one of the same Podman: another's
    # does not read its database. So these have a folder of their own; a short one, because
    # Podman refuses a --runroot of more than 50 characters.
    export TMPDIR=/tmp/podman5
    mkdir -p "$TMPDIR"
    # Its complaint about version 1 of control groups would be part of each answer's error output.
    export PODMAN_IGNORE_CGROUPSV1_WARNING=1
    # Slave: what others unmount goes here, too.
    exec unshare --mount --propagation slave "$BASH" -euc '
        root=$1
        shift
        # Of other fleets on this machine: here they would keep networks and storage alive that
        # are removed there. Lines of the kernel: file system type last.
        while read -r _ path type _; do
            case $type in nsfs | overlay) ;; tmpfs) [[ $path == */userdata/shm ]] || continue ;; *) continue ;; esac
            umount --lazy "$path" 2>/dev/null || true
        done </proc/self/mounts
        # Podman keeps some things here whatever folders it is given.
        for path in /var/lib/containers /run/containers; do
            mkdir -p "$path"
            mount -t tmpfs -o mode=700 podman5 "$path"
        done
        mount --rbind /usr/local "$root/usr/local"
        mount --rbind "$root/usr" /usr
        while [[ $1 != -- ]]; do
            [[ ! -e $1 ]] || mount --bind "$root$1" "$1"
            shift
        done
        shift
        exec "$@"' podman5 "$root" "${outside_usr[@]}" -- "$@"
}

case ${1:-} in
    build) build ;;
    where) root && echo ;;
    run)
        shift
        (($# > 0)) || die "run what?"
        run "$@"
        ;;
    *) die "no '${1:-}' here (build, run, where)" ;;
esac
