#!/usr/bin/env bash
# Builds the programs and from them the images that are named: "service" those of the services, "sample" those of the
# sample functions.
#
#   scripts/images.sh [service] [sample]
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

"$ROOT/scripts/ensure.sh"
# The Python base needs the network and little CPU, the programs need the CPU: both at once.
"$ROOT/scripts/python-base.sh" &
base=$!
trap 'kill "$base" 2>/dev/null || true' EXIT
say "building the programs (a few minutes the first time)"
"$ROOT/scripts/build.sh"
wait "$base" || die "the Python base of the samples could not be made (see above)"
trap - EXIT

BIN=$(bin_dir release)
jobs=()
for images in "$@"; do
    "$ROOT/scripts/$images-images.sh" "$BIN" &
    jobs+=($!)
done
wait_for_jobs "${jobs[@]}" || die "not all images could be built (see above)"
# What older builds left without a name; images still in use stay.
docker image prune --force --filter "label=$INPUTS" >/dev/null 2>&1 || true
