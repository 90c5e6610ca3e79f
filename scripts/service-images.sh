#!/usr/bin/env bash
# Builds the images of the services, hyperfaas/provider and hyperfaas/gateway: nothing but static programs.
#
#   scripts/service-images.sh BIN_DIR
#
# BIN_DIR holds the built programs. The provider carries the watchdog beside itself, to put it into function containers.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

(($# == 1)) || die "usage: $0 BIN_DIR"
BIN=$(cd "$1" 2>/dev/null && pwd) || die "no such folder: $1"

mkdir -p "$BUILD"
STAGE=$(mktemp -d "$BUILD/services.XXXXXX")
trap 'rm -rf "$STAGE"' EXIT

# The image of one service: its programs, the first of which runs, and the port it listens on.
service() {
    local name=$1 port=$2 folder=$STAGE/$1
    shift 2
    mkdir -p "$folder"
    (cd "$BIN" && install -m 755 "$@" "$folder") || die "programs are missing in $BIN: build them first (make build)"
    printf 'FROM scratch\nCOPY %s /\nEXPOSE %s\nENTRYPOINT ["/%s"]\n' "$*" "$port" "$1" >"$folder/Dockerfile"
    build_image "hyperfaas/$name:latest" "$folder"
}

service provider 8081 hyperfaas-provider fwatchdog
service gateway 8080 hyperfaas-gateway
