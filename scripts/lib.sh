# shellcheck shell=bash disable=SC2034
# What the scripts share; sourced, never run. Each script starts with `set -euo pipefail` and sources this file.
#
# Settings, all optional: HYPERFAAS_ADDRESS (127.0.0.1), HYPERFAAS_PORT (8080), CARGO_TARGET_DIR, DOCKER_HOST,
# HYPERFAAS_PYTHON_IMAGE (see python-base.sh).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SECRETS=$ROOT/.secrets
BUILD=$ROOT/.build
STACK=$ROOT/stack.yml
# What the provider in the stack is called on the engine (its own default), and the one of `make run`.
INSTALLATION=default
NETWORK=hyperfaas-functions
RUN_INSTALLATION=run
RUN_NETWORK=hyperfaas-run
PROJECT=hyperfaas
MANAGED=com.hyperfaas.managed=true
# On our images: the hash of all that went in. An image whose label equals the hash of today is not built again.
# (Not the `managed` label: containers inherit an image's labels, and that one means "the provider may remove me".)
INPUTS=com.hyperfaas.inputs

ADDRESS=${HYPERFAAS_ADDRESS:-127.0.0.1}
PORT=${HYPERFAAS_PORT:-8080}
# The address to call when all interfaces are published.
case $ADDRESS in 0.0.0.0 | '' ) CALL=127.0.0.1 ;; *) CALL=$ADDRESS ;; esac
GATEWAY=http://$CALL:$PORT

# Progress, with the seconds since the first script began (scripts start scripts).
export HYPERFAAS_BEGAN=${HYPERFAAS_BEGAN:-$EPOCHSECONDS}
say() { printf '[%3ss] %s\n' $((EPOCHSECONDS - HYPERFAAS_BEGAN)) "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command with its output kept; shows the output only if the command fails.
quietly() {
    local log
    log=$(mktemp "${TMPDIR:-/tmp}/hyperfaas.XXXXXX")
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
    else
        local status=$?
        cat "$log" >&2
        rm -f "$log"
        return "$status"
    fi
}

# Runs a command until it succeeds, five times a second, for at most so many seconds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

compose() {
    local tool=(docker-compose)
    if docker compose version >/dev/null 2>&1; then
        tool=(docker compose)
    elif ! have docker-compose; then
        die "neither 'docker compose' nor 'docker-compose' is installed (Debian: apt-get install docker-compose)"
    fi
    if [[ -f $HOME/.docker/config.json ]]; then
        export HYPERFAAS_DOCKER_CONFIG=${HYPERFAAS_DOCKER_CONFIG:-$HOME/.docker}
    fi
    if [[ ${DOCKER_HOST:-} == unix://* ]]; then
        export HYPERFAAS_DOCKER_SOCKET=${HYPERFAAS_DOCKER_SOCKET:-${DOCKER_HOST#unix://}}
    fi
    "${tool[@]}" -p "$PROJECT" -f "$ROOT/docker-compose.yml" "$@"
}

# Where cargo leaves the programs of a profile ("release" or "debug"), wherever the target folder was put.
bin_dir() {
    local target host
    target=$(cd "$ROOT" && cargo metadata --no-deps --format-version 1 --offline |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    host=$(rustc -vV | sed -n 's/^host: //p')
    [[ -n $target && -n $host ]] || die "cannot tell where cargo puts what it builds"
    printf '%s\n' "$target/$host/$1"
}

# The hash of a folder's files: their names, modes, links and contents, and of the further arguments.
hash_of() {
    local folder=$1
    shift
    {
        printf '%s\n' "$@"
        (cd "$folder" && find . -printf '%p %m %l\n' | LC_ALL=C sort &&
            find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum)
    } | sha256sum | cut -c1-64
}

image_id() { docker image inspect --format '{{.Id}}' "$1" 2>/dev/null || true; }
image_inputs() { docker image inspect --format "{{index .Config.Labels \"$INPUTS\"}}" "$1" 2>/dev/null || true; }

# Builds an image from a laid-out folder unless it is there, made from the same inputs.
build_image() {
    local image=$1 folder=$2 base hash
    base=$(sed -n 's/^FROM //p' "$folder/Dockerfile" | head -n 1)
    hash=$(hash_of "$folder" "$(image_id "$base")")
    if [[ $(image_inputs "$image") == "$hash" ]]; then
        say "image $image is up to date"
        return
    fi
    quietly docker build --label "$INPUTS=$hash" --tag "$image" "$folder" || die "cannot build $image (see above)"
    say "image $image built"
}

# Waits for jobs in the background; fails if one of them failed.
wait_for_jobs() {
    local status=0 job
    for job in "$@"; do
        wait "$job" || status=1
    done
    return "$status"
}

# The status of GET <path> at the gateway, empty if nobody answers. With a second argument "login", as the admin.
# A fresh Debian has no curl, so this is bash's own TCP.
http_status() {
    local path=$1 auth='' line='' login
    if [[ ${2:-} == login ]]; then
        login=$(<"$SECRETS/basic-auth-user"):$(<"$SECRETS/basic-auth-password")
        auth="Authorization: Basic $(printf '%s' "$login" | base64 -w0)"$'\r\n'
    fi
    (
        exec 3<>"/dev/tcp/$CALL/$PORT" || exit 0
        printf 'GET %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n' "$path" "$CALL:$PORT" "$auth" >&3
        IFS= read -r -t 5 line <&3 || exit 0
        line=${line#HTTP/1.? }
        printf '%s' "${line%% *}"
    ) 2>/dev/null || true
}

# The names of the functions in stack.yml, in its order.
stack_functions() { sed -n '/^functions:/,/^[^ #]/s/^  \([a-z0-9][a-z0-9-]*\):.*/\1/p' "$STACK"; }
