#!/usr/bin/env bash
# Fetches Debian's Prometheus and Alertmanager once, for `bench burst --mode alertmanager`; nothing is installed on this machine.
# Prints the folder with both programs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

FOLDER=$BUILD/cache/prometheus
if [[ ! -x $FOLDER/usr/bin/prometheus || ! -x $FOLDER/usr/bin/prometheus-alertmanager ]]; then
    have apt-get || die "Prometheus and Alertmanager are fetched with apt-get; elsewhere, give their folder with --prometheus"
    mkdir -p "$BUILD/cache"
    stage=$(mktemp -d "$BUILD/prometheus.XXXXXX")
    trap 'rm -rf "$stage"' EXIT
    # Readable for apt's own user, who does the download.
    chmod 755 "$stage"
    (
        cd "$stage"
        quietly apt-get download prometheus prometheus-alertmanager ||
            die "cannot fetch prometheus and prometheus-alertmanager (see above; are the package lists read: apt-get update?)"
        for package in ./*.deb; do dpkg-deb -x "$package" tree; done
    )
    rm -rf "$FOLDER"
    mv "$stage/tree" "$FOLDER"
fi
printf '%s\n' "$FOLDER/usr/bin"
