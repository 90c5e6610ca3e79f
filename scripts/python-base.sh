#!/usr/bin/env bash
# Makes hyperfaas/python3-base: Debian with python3, flask and waitress and little else, from Debian's packages, by the
# mirror and release that this machine's apt is set up for. No registry is asked. About 20 s; nothing if it is there.
#
# HYPERFAAS_PYTHON_IMAGE=python:3-slim builds it from that image and pip instead, for machines without Debian's
# packages or without the rights that mmdebstrap needs (root, or user namespaces and newuidmap).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

IMAGE=hyperfaas/python3-base:latest
PACKAGES=python3,python3-flask,python3-waitress
# Not needed to run a function; half of the size.
LEAVE_OUT=('/usr/share/doc/*' '/usr/share/man/*' '/usr/share/locale/*' '/usr/share/javascript/*' '/usr/lib/*/gconv/*')
PATH_LINE=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

from_image() {
    local hash
    hash=$(sha256sum "$ROOT/functions/pyhello/base.Dockerfile" | cut -c1-64)-$HYPERFAAS_PYTHON_IMAGE
    [[ $(image_inputs "$IMAGE") != "$hash" ]] || return 0
    quietly docker build --build-arg "PYTHON_IMAGE=$HYPERFAAS_PYTHON_IMAGE" --label "$INPUTS=$hash" --tag "$IMAGE" \
        --file "$ROOT/functions/pyhello/base.Dockerfile" "$ROOT/functions/pyhello" ||
        die "cannot build $IMAGE from $HYPERFAAS_PYTHON_IMAGE (see above)"
    say "image $IMAGE built from $HYPERFAAS_PYTHON_IMAGE"
}

# The machine's own sources, those of its distribution only, as lines for mmdebstrap.
sources() {
    # shellcheck disable=SC2016 # apt fills these in, not the shell
    apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' "Origin: $1" | sort -u
}

from_packages() {
    local distribution release hash folder hooks=()
    # shellcheck source=/dev/null
    distribution=$(. /etc/os-release && printf '%s' "${ID^}")
    # shellcheck source=/dev/null
    release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    hash=$(printf '%s\n' "$distribution" "$release" "$PACKAGES" "$PATH_LINE" "${LEAVE_OUT[@]}" | sha256sum | cut -c1-64)
    [[ $(image_inputs "$IMAGE") != "$hash" ]] || return 0
    if ! have mmdebstrap || [[ -z $release ]]; then
        die "the sample pyhello needs Debian's mmdebstrap, or HYPERFAAS_PYTHON_IMAGE=python:3-slim and a registry"
    fi
    say "making $IMAGE from $distribution's packages"
    folder=$(mktemp -d "${TMPDIR:-/tmp}/hyperfaas.XXXXXX")
    # shellcheck disable=SC2064 # this folder, now
    trap "rm -rf '$folder'" EXIT
    sources "$distribution" >"$folder/sources.list"
    [[ -s $folder/sources.list ]] || die "apt has no package lists: run 'apt-get update' as root"
    # Without this hook, /bin as a link to /usr/bin costs a whole perl.
    if [[ -d /usr/share/mmdebstrap/hooks/merged-usr ]]; then
        hooks=(--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged)
    fi
    quietly mmdebstrap --variant=essential "${hooks[@]}" --include="$PACKAGES" --aptopt='Acquire::Languages "none"' \
        "${LEAVE_OUT[@]/#/--dpkgopt=path-exclude=}" "$release" "$folder/base.tar" "$folder/sources.list" ||
        die "cannot make $IMAGE from packages (see above); HYPERFAAS_PYTHON_IMAGE=python:3-slim takes a registry's instead"
    quietly docker import --change "LABEL $INPUTS=$hash" --change "ENV $PATH_LINE" --change 'CMD ["python3"]' \
        "$folder/base.tar" "$IMAGE"
    say "image $IMAGE made"
}

if [[ -n ${HYPERFAAS_PYTHON_IMAGE:-} ]]; then from_image; else from_packages; fi
