#!/usr/bin/env bash
# Builds the images of the sample functions, hyperfaas/fn-NAME:latest, without any registry.
#
#   scripts/sample-images.sh BIN_DIR
#
# BIN_DIR holds the built programs: fwatchdog, hello, plain, burn. What is unchanged is not built again, so tests may call
# this as often as they like; calls at the same time wait for each other.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

(($# == 1)) || die "usage: $0 BIN_DIR"
BIN=$(cd "$1" 2>/dev/null && pwd) || die "no such folder: $1"
for program in fwatchdog hello plain burn; do
    [[ -x $BIN/$program ]] || die "$BIN/$program is missing: build it first (make build)"
done

mkdir -p "$BUILD/cache"
exec 9>"$BUILD/sample-images.lock"
flock 9
STAGE=$(mktemp -d "$BUILD/samples.XXXXXX")
trap 'rm -rf "$STAGE"' EXIT

# A folder to build a sample in: its sources, and root/ with what even an empty image must have.
lay_out() {
    local folder=$STAGE/$1
    mkdir -p "$folder"
    cp -r "$ROOT/functions/$1/." "$folder"
    find "$folder" -name __pycache__ -prune -exec rm -rf {} +
    chmod -R u=rwX,go=rX "$folder"
    printf '%s\n' "$folder"
}

# What `USER app` and a watchdog's lock file need.
lay_out_root() {
    install -d -m 755 "$1/etc"
    printf 'root:x:0:0::/root:/sbin/nologin\napp:x:100:101::/home/app:/sbin/nologin\n' >"$1/etc/passwd"
    printf 'root:x:0:\napp:x:101:\n' >"$1/etc/group"
    chmod 644 "$1/etc/passwd" "$1/etc/group"
    install -d -m 1777 "$1/tmp"
}

# Debian's static busybox, fetched by apt once and never installed on this machine.
busybox() {
    local file=$BUILD/cache/busybox folder
    if [[ ! -x $file ]]; then
        folder=$(mktemp -d "$BUILD/busybox.XXXXXX")
        # Readable for apt's own user, who does the download.
        chmod 755 "$folder"
        (cd "$folder" && quietly apt-get download busybox-static && dpkg-deb -x busybox-static_*.deb .) ||
            die "cannot fetch Debian's busybox-static (see above; are the package lists read: apt-get update?)"
        mv "$(find "$folder" -name busybox -type f -perm -u+x | head -n 1)" "$file"
        rm -rf "$folder"
    fi
    printf '%s\n' "$file"
}

lay_out_shout() {
    local folder applet
    folder=$(lay_out shout)
    lay_out_root "$folder/root"
    install -d -m 755 "$folder/root/bin" "$folder/home"
    install -m 755 "$(busybox)" "$folder/root/bin/busybox"
    for applet in $("$folder/root/bin/busybox" --list); do
        [[ $applet == busybox ]] || ln -s busybox "$folder/root/bin/$applet"
    done
    install -m 755 "$BIN/fwatchdog" "$folder/fwatchdog"
}

lay_out_server() {
    local folder
    folder=$(lay_out "$1")
    lay_out_root "$folder/root"
    install -m 755 "$BIN/$1" "$folder/handler"
    install -m 755 "$BIN/fwatchdog" "$folder/fwatchdog"
}

lay_out_shout
lay_out_server hello
lay_out_server burn
install -m 755 "$BIN/plain" "$(lay_out plain)/plain"
install -m 755 "$BIN/fwatchdog" "$(lay_out pyhello)/fwatchdog"

jobs=()
for name in shout hello plain burn; do
    build_image "hyperfaas/fn-$name:latest" "$STAGE/$name" &
    jobs+=($!)
done
"$ROOT/scripts/python-base.sh"
build_image hyperfaas/fn-pyhello:latest "$STAGE/pyhello"
wait_for_jobs "${jobs[@]}"
