#!/bin/bash
# Installs what qnet's tests, demo and benchmarks need on a Debian 12 machine, as root:
#   packaging/bootstrap.sh           Debian packages and the virtual environment .venv
#   packaging/bootstrap.sh engines   the same, and the Docker engines of Debian 13 and unstable in build/engines, with
#                                    Debian 13's `docker compose` and `docker buildx`
#   packaging/bootstrap.sh vm        the first, and what builds and runs the virtual machines of tests/vm
#   packaging/bootstrap.sh package   the first, and what builds the Debian package and runs the machines of tests/package
# It checks first and acts on what is missing only: a second run does nothing and needs no network.
# No service is started or enabled, and a Docker that the machine has already is left as it is.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$root/build"
venv="$root/.venv"
engines="$build/engines"
policy=/usr/sbin/policy-rc.d
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
packages=(bsdutils curl etcd-server etcd-client glusterfs-server iproute2 nftables busybox-static fio iperf3 iputils-ping
    procps prometheus openssl python3-venv util-linux xfsprogs xz-utils)
vm_packages=(qemu-system-x86 qemu-utils mmdebstrap debian-archive-keyring e2fsprogs cpio lz4 openssh-client
    tcpdump)
package_packages=(debhelper dpkg-dev lintian mmdebstrap debian-archive-keyring systemd-container)

say() { echo "bootstrap: $*"; }
die() { echo "bootstrap: $*" >&2; exit 1; }
installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

check_machine() {
    [[ $(id -u) == 0 ]] || die "must run as root: it installs packages and the lab makes namespaces"
    command -v apt-get >/dev/null || die "needs Debian (apt-get is not here)"
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")
    [[ $codename == bookworm ]] || say "warning: made for Debian 12 (bookworm), this is $codename"
}

# A dockerd that did not come with Debian's docker.io would be removed by installing that package.
own_docker() { ! installed docker.io && command -v dockerd >/dev/null; }

# Maintainer scripts ask policy-rc.d before they start a service; 101 means: do not.
forbid_services() {
    if [[ -e $policy ]]; then
        mv "$policy" "$policy.qnet-saved"
    fi
    trap allow_services EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

allow_services() {
    rm -f "$policy"
    if [[ -e $policy.qnet-saved ]]; then
        mv "$policy.qnet-saved" "$policy"
    fi
    trap - EXIT
}

# The lab starts its own engines and etcd: services that came with the packages stay off after a reboot, too.
disable_services() {
    local package units
    command -v systemctl >/dev/null || return 0  # nothing would start them
    for package in "$@"; do
        case $package in
            docker.io) units=(docker.service docker.socket containerd.service) ;;
            etcd-server) units=(etcd.service) ;;
            glusterfs-server) units=(glusterd.service) ;;
            prometheus) units=(prometheus.service) ;;
            *) continue ;;
        esac
        if systemctl disable --quiet "${units[@]}" 2>>"$build/apt.log"; then
            say "services of $package (${units[*]}): not started, not enabled"
        else
            say "warning: services of $package (${units[*]}) could not be disabled, see $build/apt.log"
        fi
    done
}

# A mirror that stumbles once, or another apt that has the lists, is no reason to give up.
retried() {
    "$@" || { sleep 10; "$@"; } || { sleep 30; "$@"; }
}

apt_update() {
    say "apt-get update"
    retried apt-get update -qq || die "apt-get update failed (is the Debian mirror within reach?)"
}

install_packages() {
    local missing=() package
    if own_docker; then
        say "Docker of this machine ($(command -v dockerd)): left as it is"
    else
        packages+=(docker.io)
    fi
    for package in "${packages[@]}"; do
        installed "$package" || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then
        say "Debian packages: all ${#packages[@]} are here"
        return
    fi
    apt_update
    say "installing Debian packages: ${missing[*]}"
    forbid_services
    DEBIAN_FRONTEND=noninteractive retried apt-get install -y -qq --no-install-recommends --no-upgrade \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 "${missing[@]}" >"$build/apt.log" 2>&1 ||
        { tail -n 20 "$build/apt.log" >&2; die "apt-get install failed, see $build/apt.log"; }
    allow_services
    disable_services "${missing[@]}"
}

find_python() {
    local candidate
    for candidate in "${QNET_PYTHON:-}" /usr/bin/python3.11 /usr/bin/python3; do
        if [[ -n $candidate && -x $candidate ]] &&
            "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer with venv is here (set QNET_PYTHON)"
}

# pip OPTIONS…: quiet, without its remarks about newer versions and about wheel folders that are not there.
pip() {
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip --quiet "$@" 2>"$build/pip.log" ||
        { cat "$build/pip.log" >&2; die "pip failed: $*"; }
}

make_venv() {
    local python lock self
    if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        python=$(find_python)
        say "virtual environment .venv with $python"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    lock=$(sha256sum <"$root/requirements.lock")
    if [[ $(cat "$venv/lock.sum" 2>/dev/null) == "$lock" ]]; then
        say "Python packages: as in requirements.lock"
    else
        say "Python packages: installing requirements.lock into .venv"
        # --no-deps: glustercli would want paramiko, which the lock leaves out (packaging/lock.sh)
        pip install --no-deps --require-hashes -r "$root/requirements.lock"
        echo "$lock" >"$venv/lock.sum"
    fi
    self="$root $(cat "$root/setup.cfg" "$root/pyproject.toml" | sha256sum)"
    if [[ $(cat "$venv/self.sum" 2>/dev/null) == "$self" ]]; then
        say "qnet: installed in .venv (editable)"
    else
        say "qnet: installing this clone into .venv (editable)"
        pip install --no-deps --no-build-isolation -e "$root"
        echo "$self" >"$venv/self.sum"
    fi
}

# The mirror that this machine's apt uses for Debian 12 serves the other suites as well.
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Label: Debian' |
        head -n 1
}

# private_apt COMMAND…: apt-get with sources, lists and cache of its own below build/apt.
private_apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$build/apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts=- \
        -o Dir::State::lists="$build/apt/lists" -o Dir::Cache="$build/apt/cache" \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any "$@"
}

prepare_private_apt() {
    local suite=$1 mirror
    [[ -e $keyring ]] || die "package debian-archive-keyring is missing"
    mirror=$(debian_mirror)
    if [[ -z $mirror ]]; then
        apt_update
        mirror=$(debian_mirror)
    fi
    [[ -n $mirror ]] || die "apt's sources name no mirror of Debian 12"
    mkdir -p "$build/apt/lists/partial" "$build/apt/cache/archives/partial"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$build/apt/sources.list"
}

# fetch_engine NAME SUITE PACKAGE…: unpacks the packages of a suite in build/engines/NAME. A suite that cannot be
# reached is reported here and in build/engines/NAME.missing, which the lab and the tests show.
fetch_engine() {
    local name=$1 suite=$2 work="$engines/$1.new" package deb
    shift 2
    if [[ -e $engines/$name/version ]]; then
        say "engine $name: $(cat "$engines/$name/version")"
        return
    fi
    say "engine $name: downloading $* of Debian's $suite"
    rm -rf "$work" "${engines:?}/$name"
    mkdir -p "$work/debs"
    prepare_private_apt "$suite"
    if ! (cd "$work/debs" && retried private_apt update && retried private_apt download "${@/%//$suite}") 2>"$work/log"; then
        { echo "Debian's $suite could not be fetched:"; grep -E '^[EW]:' "$work/log" || true; } |
            tee "$engines/$name.missing" >&2
        say "WARNING: engine $name is missing; its tests will say so"
        rm -rf "$work"
        return
    fi
    for deb in "$work"/debs/*.deb; do
        dpkg -x "$deb" "$work"
    done
    for package in "$work"/debs/*.deb; do
        dpkg-deb -f "$package" Package Version | paste -sd' ' | sed 's/Package: //; s/Version: //'
    done | paste -sd, | sed 's/,/, /g' >"$work/version"
    rm -rf "$work/debs" "$work/log" "$engines/$name.missing"
    mv "$work" "$engines/$name"
    say "engine $name: $(cat "$engines/$name/version")"
}

fetch_engines() {
    fetch_engine debian13 trixie docker.io containerd
    fetch_engine unstable unstable docker.io containerd
    fetch_engine cli-plugins trixie docker-compose docker-buildx  # no engine, but plugins of the docker command
}

main() {
    local what=${1:-}
    [[ $what =~ ^(|engines|vm|package)$ ]] || die "usage: packaging/bootstrap.sh [engines|vm|package]"
    check_machine
    mkdir -p "$engines"
    exec 9>"$build/bootstrap.lock"
    flock 9
    if [[ $what == vm ]]; then
        packages+=("${vm_packages[@]}")
    elif [[ $what == package ]]; then
        packages+=("${package_packages[@]}")
    fi
    install_packages
    make_venv
    if own_docker; then
        fetch_engine debian12 bookworm docker.io containerd runc
    fi
    if [[ $what == engines ]]; then
        fetch_engines
    fi
}

main "$@"
