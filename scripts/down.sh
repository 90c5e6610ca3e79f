#!/usr/bin/env bash
# Stops the services and removes the functions' containers. What was deployed is kept: `make up` brings it back.
#
#   scripts/down.sh [--purge]
#
# --purge also removes what was deployed, the images, the networks and the build cache; not the password.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# Does something to everything that a listing command prints, one id a line: remove <to each> -- <listing command>
remove() {
    local action=() ids=()
    while [[ $1 != -- ]]; do
        action+=("$1")
        shift
    done
    shift
    mapfile -t ids < <("$@")
    ((${#ids[@]} == 0)) || quietly docker "${action[@]}" "${ids[@]}"
}

engine_answers || die "no Docker engine answers, so nothing of HyperFaaS runs"

# The services first, else the provider would replace the containers that go away.
compose down --remove-orphans
say "removing the functions' containers"
for installation in "$INSTALLATION" "$RUN_INSTALLATION"; do
    theirs=(--filter "label=$MANAGED" --filter "label=com.hyperfaas.installation=$installation")
    remove stop --time 10 -- docker ps --quiet "${theirs[@]}"
    remove rm --force --volumes -- docker ps --all --quiet "${theirs[@]}"
    [[ ${1:-} != --purge ]] || remove volume rm -- docker volume ls --quiet "${theirs[@]}"
done

if [[ ${1:-} != --purge ]]; then
    say "stopped; what was deployed is kept (make purge removes it)"
    exit
fi

say "removing state, images and networks"
remove volume rm -- docker volume ls --quiet --filter name=^hyperfaas-state$ --filter name=^hyperfaas-queue$ \
    --filter name=^hyperfaas-metrics$ --filter name=^hyperfaas-nats$
# Watchdogs and networks may be in use elsewhere: by another installation, by services of the user's.
docker volume ls --quiet --filter "label=$MANAGED" --filter label=com.hyperfaas.role=watchdog | while read -r volume; do
    docker volume rm "$volume" >/dev/null 2>&1 || say "kept, since in use elsewhere: volume $volume"
done
for network in "$NETWORK" "$RUN_NETWORK"; do
    docker network inspect "$network" >/dev/null 2>&1 || continue
    docker network rm "$network" >/dev/null 2>&1 || say "kept, since in use elsewhere: network $network"
done
remove image rm --force -- docker image ls --format '{{.Repository}}:{{.Tag}}' 'hyperfaas/*'
quietly docker image prune --force --filter "label=$INPUTS"
# What was measured took hours.
[[ ! -d $BUILD ]] || find "$BUILD" -mindepth 1 -maxdepth 1 ! -name bench ! -name bench-full -exec rm -rf {} +
say "all gone but the password in .secrets/ and the results of benchmarks in .build/"
