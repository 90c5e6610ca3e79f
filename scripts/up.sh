#!/usr/bin/env bash
# From a clone to functions that answer: builds, starts the services, deploys stack.yml, calls every function.
# Running it again builds and restarts only what changed. `make up` runs this.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

make_network() {
    docker network inspect "$NETWORK" >/dev/null 2>&1 ||
        quietly docker network create --label "$MANAGED" "$NETWORK" || die "cannot make the network $NETWORK"
}

port_is_taken() { (exec 3<>"/dev/tcp/$CALL/$PORT") 2>/dev/null; }
gateway_is_ours() { [[ -n $(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" --filter "publish=$PORT") ]]; }

start_services() {
    say "starting the services"
    export HYPERFAAS_PORT=$PORT HYPERFAAS_ADDRESS=$ADDRESS
    compose up -d --remove-orphans "$@" || die "the services do not start (see above)"
}

# Through the gateway as the admin, so 200 says that the provider behind it answers too.
services_answer() { [[ $(http_status /healthz) == 200 && $(http_status /system/functions login) == 200 ]]; }

await_services() {
    wait_until 60 services_answer && return
    compose logs --tail 20 >&2 || true
    die "the gateway does not answer at $GATEWAY (healthz: $(http_status /healthz), functions: $(http_status /system/functions login))"
}

deploy() {
    if have faas-cli; then
        say "deploying stack.yml with faas-cli"
        faas-cli login --gateway "$GATEWAY" --username "$(<"$SECRETS/basic-auth-user")" --password-stdin \
            <"$SECRETS/basic-auth-password" || die "faas-cli cannot log in at $GATEWAY"
        faas-cli deploy --gateway "$GATEWAY" -f "$STACK" || die "cannot deploy stack.yml (see above)"
    else
        say "deploying stack.yml"
        "$BIN/hyperfaas" deploy --gateway "$GATEWAY" --username "$(<"$SECRETS/basic-auth-user")" \
            --password-file "$SECRETS/basic-auth-password" -f "$STACK" || die "cannot deploy stack.yml (see above)"
    fi
}

invoke_all() {
    local name answer failed=0
    for name in $(stack_functions); do
        if answer=$(printf 'hello from HyperFaaS' | timeout 120 "$BIN/hyperfaas" invoke --gateway "$GATEWAY" "$name" 2>&1); then
            say "$name answers:"
        else
            say "$name FAILS:"
            failed=1
        fi
        printf '%s\n' "$answer" | sed 's/^/         /'
    done
    return "$failed"
}

"$ROOT/scripts/ensure.sh"
# Before the minutes of building, not after.
if port_is_taken && ! gateway_is_ours; then
    die "$CALL:$PORT is in use by another program: make up HYPERFAAS_PORT=<another>"
fi
"$ROOT/scripts/images.sh" service sample
BIN=$(bin_dir release)
# Services that run already have read an older password.
renew=()
[[ -s $SECRETS/basic-auth-password ]] || renew=(--force-recreate)
"$ROOT/scripts/secrets.sh"
make_network
start_services "${renew[@]}"
await_services
deploy
answered=0
invoke_all || answered=1

cat <<TEXT

HyperFaaS runs.
  gateway    $GATEWAY
  password   .secrets/basic-auth-password (user: $(<"$SECRETS/basic-auth-user"))
  log in     cat .secrets/basic-auth-password | faas-cli login -g $GATEWAY --password-stdin
  call       curl $GATEWAY/function/shout -d hello
  stop       make down
TEXT
((answered == 0)) || die "not every function answers (see above)"
