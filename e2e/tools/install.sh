#!/usr/bin/env bash
# Installs what the fleet's tests and its demo need and this machine lacks. Says
# what and why before it does; does nothing, quickly, when all is there.
#
#   install.sh               Debian packages that run the fleet, rustfmt and clippy
#   install.sh cargo-deny    the pinned cargo-deny, into the cache folder
#   install.sh mdbook        the pinned mdbook, into the cache folder
#   install.sh mmdebstrap    Debian's mmdebstrap, for `podman5.sh`
#
# The cache folder is ${XDG_CACHE_HOME:-~/.cache}/harmony-fleet/cargo-tools.
set -euo pipefail

cargo_deny_version=0.20.2
mdbook_version=0.5.4
tools=${XDG_CACHE_HOME:-$HOME/.cache}/harmony-fleet/cargo-tools

say() { printf 'install: %s\n' "$*" >&2; }
die() {
    printf 'install: error: %s\n' "$*" >&2
    exit 1
}

# "<package> <file that it brings, * for the machine's architecture> <why>"
debian_packages() {
    cat <<'LIST'
podman /usr/bin/podman runs the containers of a device
runc /usr/sbin/runc the container runtime that works with both versions of control groups
conmon /usr/bin/conmon watches each container for Podman
netavark /usr/lib/podman/netavark gives pods their network
aardvark-dns /usr/lib/podman/aardvark-dns resolves names between containers
catatonit /usr/bin/catatonit holds the namespaces of a pod
busybox-static /bin/busybox the content of the example image
iptables /usr/sbin/iptables published ports, and devices that are reached by nobody
iproute2 /usr/sbin/ip a network namespace for each device
util-linux /usr/bin/nsenter starts programs in those namespaces
curl /usr/bin/curl asks the example service
ca-certificates /etc/ssl/certs/ca-certificates.crt downloads of Go modules and crates
gcc /usr/bin/gcc links Rust programs
g++ /usr/bin/g++ the fuzzer's library, for the lint of the fuzz targets
libc6-dev /usr/include/stdio.h the C library's headers, for linking
make /usr/bin/make runs the targets
libfaketime /usr/lib/*/faketime/libfaketimeMT.so.1 a device whose clock is wrong
LIST
}

# Takes lines as above.
install_debian_packages() {
    local package file why
    local -a missing=()
    while read -r package file why; do
        # The file, not the package: whoever built it from source has it, too.
        if ! compgen -G "$file" >/dev/null && ! command -v "${file##*/}" >/dev/null; then
            missing+=("$package")
            say "$package is missing ($why)"
        fi
    done
    if ((${#missing[@]} == 0)); then
        return
    fi
    command -v apt-get >/dev/null || die "this is not Debian; install by hand: ${missing[*]}"
    ((EUID == 0)) || die "installing ${missing[*]} needs root: sudo $0"
    say "installing ${missing[*]} with apt-get"
    # Lock waits: a fresh machine may still run its first update.
    local -a apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" update
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --yes --no-install-recommends "${missing[@]}" >&2
}

require_compilers() {
    command -v go >/dev/null || die "go is not on PATH; install Go 1.26 or newer (https://go.dev/dl)"
    command -v cargo >/dev/null || die "cargo is not on PATH; install Rust with rustup (https://rustup.rs)"
}

install_rust_components() {
    local component
    for component in rustfmt clippy; do
        if cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
            continue
        fi
        say "$component is missing (format and lints of the sources)"
        command -v rustup >/dev/null || die "$component is missing and there is no rustup to add it"
        rustup component add "$component"
    done
}

install_cargo_tool() {
    local name=$1 version=$2
    shift 2
    if [[ $("$tools/bin/$name" --version 2>/dev/null || true) =~ \ v?"$version"$ ]]; then
        return
    fi
    require_compilers
    say "building $name $version into $tools (minutes, once)"
    # A folder of its own: its dependencies are not ours. Both run for seconds: their release profiles (link-time
    # optimization over everything) take longer to compile than they ever save here.
    CARGO_TARGET_DIR=$tools/target CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=false CARGO_INCREMENTAL=0 \
        cargo install --quiet --locked --debug --root "$tools" "$@" "$name@$version"
    rm -rf "$tools/target"
}

case ${1:-} in
    '')
        install_debian_packages < <(debian_packages)
        require_compilers
        install_rust_components
        ;;
    mmdebstrap)
        install_debian_packages <<<'mmdebstrap /usr/bin/mmdebstrap makes root file systems of other versions of Debian'
        ;;
    cargo-deny) install_cargo_tool cargo-deny "$cargo_deny_version" ;;
    # No server of its own, no watching.
    mdbook) install_cargo_tool mdbook "$mdbook_version" --no-default-features --features search ;;
    *) die "no '$1' here (cargo-deny, mdbook, mmdebstrap, or nothing)" ;;
esac
