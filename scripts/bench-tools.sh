#!/usr/bin/env bash
# Fetches Debian's Prometheus and Alertmanager once, for `bench burst --mode alertmanager`; nothing is installed on this machine.
# Prints the folder with both programs.
#
# Alertmanager insists on a template in /usr/share, so it is started in a mount namespace of its own where its package's lies.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

FOLDER=$BUILD/cache/prometheus
if [[ ! -x $FOLDER/bin/prometheus-alertmanager ]]; then
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
    mkdir "$stage/tree/bin"
    ln -s ../usr/bin/prometheus "$stage/tree/bin/prometheus"
    cat >"$stage/tree/bin/prometheus-alertmanager" <<'WRAPPER'
#!/bin/sh
tree=$(dirname "$(dirname "$(readlink -f "$0")")")
exec unshare --mount --map-root-user sh -c 'mount --bind "$0/usr/share" /usr/share && exec "$0/usr/bin/prometheus-alertmanager" "$@"' "$tree" "$@"
WRAPPER
    chmod 755 "$stage/tree/bin/prometheus-alertmanager"
    rm -rf "$FOLDER"
    mv "$stage/tree" "$FOLDER"
fi
printf '%s\n' "$FOLDER/bin"
