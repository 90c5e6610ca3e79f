#!/usr/bin/env bash
# Makes sure that what the other scripts need is there: a linker and C library for cargo, a Docker engine that answers,
# Compose, and the tool that makes the Python base from Debian's packages. `ensure.sh tests`: also the browser, the NATS server and the
# Python that tests use.
#
# As root, what is missing is installed from Debian's packages and the engine is started. As anybody else, one line says
# what is needed. Nothing is touched when all is there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

is_root() { [[ $(id -u) == 0 ]]; }

missing_packages() {
    have cc || echo gcc
    [[ -e /usr/include/stdlib.h ]] || echo libc6-dev
    # From Debian 13 on the client is a package of its own, which docker.io only recommends.
    if ! have dockerd && ! have docker; then echo docker.io; elif ! have docker; then echo docker-cli; fi
    # Where the kernel has AppArmor, the engine starts no container without its tool.
    if grep -qs Y /sys/module/apparmor/parameters/enabled && ! have apparmor_parser; then echo apparmor; fi
    if ! have docker-compose && ! docker compose version >/dev/null 2>&1; then echo docker-compose; fi
    if [[ -z ${HYPERFAAS_PYTHON_IMAGE:-} ]] && ! have mmdebstrap; then echo mmdebstrap; fi
    # The browser is for the tests of the page only: 133 MB to fetch, 440 MB unpacked, under a minute.
    if [[ ${1:-} == tests ]]; then
        have chromium || echo chromium
        have chromedriver || echo chromium-driver
        have nats-server || echo nats-server
        have python3 || echo python3
    fi
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    if ! compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null; then
        say "reading the package lists"
        quietly apt-get update
    fi
    say "installing $*"
    apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 && return
    # The lists may be older than the packages on the mirror.
    quietly apt-get update
    quietly apt-get install -y --no-install-recommends "$@" || die "cannot install: $*"
}

start_engine() {
    if [[ -d /run/systemd/system ]]; then
        quietly systemctl start docker || true
        wait_until 60 engine_answers && return
        die "the Docker engine does not start: see 'journalctl -u docker'"
    fi
    local log=/var/log/hyperfaas-dockerd.log
    setsid dockerd >>"$log" 2>&1 </dev/null &
    local engine=$!
    engine_answers_or_died() { engine_answers || ! kill -0 "$engine" 2>/dev/null; }
    wait_until 60 engine_answers_or_died || true
    engine_answers || die "the Docker engine does not start: see $log"
}

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
have cargo || die "cargo is missing: install Rust $rust or newer"

mapfile -t packages < <(missing_packages "$@")
# Without root only what cannot be done without is asked for; python-base.sh says more if it comes to need its tool.
if ! is_root; then
    for index in "${!packages[@]}"; do
        [[ ${packages[index]} == mmdebstrap ]] && unset 'packages[index]'
    done
fi
if ((${#packages[@]} > 0)); then
    is_root || die "missing: ${packages[*]} (as root: apt-get install ${packages[*]})"
    have apt-get || die "missing: ${packages[*]} (this is not Debian: install them yourself)"
    install "${packages[@]}"
    # Tests start their own; the package would leave one running on the usual port.
    if [[ " ${packages[*]} " == *" nats-server "* && -d /run/systemd/system ]]; then
        quietly systemctl disable --now nats-server || true
    fi
    have docker || install docker-cli
fi

if ! engine_answers; then
    [[ -z ${DOCKER_HOST:-} ]] || die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST"
    if ! is_root || ! have dockerd; then
        reason=$(docker version --format x 2>&1 >/dev/null | tail -n 1) || true
        die "no Docker engine answers; start it, or join the group 'docker' ($reason)"
    fi
    say "starting the Docker engine"
    start_engine
fi
