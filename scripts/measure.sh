#!/usr/bin/env bash
# Measures the numbers in docs/verification.md on this machine: a provider of its own, free ports, nothing left behind.
# Needs root or a reachable engine, curl, and wrk (Debian: apt-get install wrk). Load goes to 127.0.0.1 only.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

ROUNDS=${ROUNDS:-10}
WHO=measure-$$
NET=$WHO
PLAIN=hyperfaas/fn-plain:latest
WORK=$(mktemp -d "${TMPDIR:-/tmp}/hyperfaas-measure.XXXXXX")
PROVIDER=
SOCKET=${DOCKER_HOST:-unix:///var/run/docker.sock}
SOCKET=${SOCKET#unix://}

have wrk || die "wrk is missing (Debian: apt-get install wrk)"
"$ROOT/scripts/images.sh" sample

stop() {
    [[ -z $PROVIDER ]] || kill "$PROVIDER" 2>/dev/null || true
    [[ -z $PROVIDER ]] || wait "$PROVIDER" 2>/dev/null || true
    PROVIDER=
}

clean() {
    stop
    docker ps -aq --filter "label=com.hyperfaas.installation=$WHO" | xargs -r docker rm -fv >/dev/null
    docker ps -aq --filter "label=$WHO" | xargs -r docker rm -fv >/dev/null
    docker volume ls -q --filter "label=com.hyperfaas.installation=$WHO" | xargs -r docker volume rm >/dev/null || true
    docker network rm "$NET" >/dev/null 2>&1 || true
    rm -rf "$WORK"
}
trap clean EXIT

# Starts a provider on free ports; sets URL. Arguments: further variables.
start() {
    LOG=$(mktemp "$WORK/log.XXXXXX")
    env HYPERFAAS_ADDRESS=127.0.0.1 port=0 HYPERFAAS_STATE_DIR="$WORK/state-$RANDOM" HYPERFAAS_INSTALLATION="$WHO" \
        HYPERFAAS_NETWORK="$NET" HYPERFAAS_LOG_FORMAT=json "$@" "$(bin_dir release)/hyperfaas-provider" 2>"$LOG" &
    PROVIDER=$!
    wait_until 10 grep -q '"provider listening"' "$LOG" || die "the provider did not start: $(tail -n 3 "$LOG")"
    URL=http://$(sed -n 's/.*"provider listening".*"address":"\([^"]*\)".*/\1/p; s/.*"address":"\([^"]*\)".*"provider listening".*/\1/p' \
        "$LOG" | head -n 1)
}

# A call of the engine's API itself: no command line tool in between, as a provider would do it.
engine() { # method path [body]
    curl -fsS --unix-socket "$SOCKET" -X "$1" -H 'Content-Type: application/json' -d "${3:-}" "http://engine$2"
}

deploy() { # name image; prints the seconds the call took
    curl -fsS -o /dev/null -w '%{time_total}\n' -X POST "$URL/system/functions" \
        -d "{\"service\":\"$1\",\"image\":\"$2\"}"
}

now() { date +%s%N; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
spread() { sort -n | awk '{ v[NR] = $1 } END { printf "median %s, from %s to %s\n", v[int((NR + 1) / 2)], v[1], v[NR] }'; }
resident() { awk '/^VmRSS/ { print $2 " KiB" }' "/proc/$1/status"; }

echo "== deploy to first 200 of a static image, beside the engine's own create + start + first response, $ROUNDS rounds in turn"
start
deploy warm "$PLAIN" >/dev/null
curl -fsS -o /dev/null "$URL/function/warm"
for ((round = 1; round <= ROUNDS; round++)); do
    began=$(now)
    id=$(engine POST /containers/create \
        "{\"Image\":\"$PLAIN\",\"Labels\":{\"$WHO\":\"\"},\"HostConfig\":{\"NetworkMode\":\"$NET\"}}" | sed 's/.*"Id":"\([0-9a-f]*\)".*/\1/')
    engine POST "/containers/$id/start"
    ip=$(engine GET "/containers/$id/json" | sed 's/.*"'"$NET"'":{[^}]*"IPAddress":"\([0-9.]*\)".*/\1/')
    until curl -fs -o /dev/null "http://$ip:8080/"; do :; done
    engine=$((($(now) - began) / 1000))
    docker rm -f "$id" >/dev/null

    began=$(now)
    call=$(deploy "round-$round" "$PLAIN")
    curl -fsS -o /dev/null "$URL/function/round-$round"
    ours=$((($(now) - began) / 1000))
    curl -fsS -X DELETE "$URL/system/functions" -d "{\"functionName\":\"round-$round\"}"
    wait_until 30 test -z "$(docker ps -aq --filter "label=com.hyperfaas.function=round-$round")" || true
    echo "$engine $ours $call" >>"$WORK/rounds"
    printf 'round %2d: engine %6d us, ours %6d us, deploy call %s s\n' "$round" "$engine" "$ours" "$call"
done
printf 'ours / engine: '
awk '{ printf "%.2f\n", $2 / $1 }' "$WORK/rounds" | spread
printf 'deploy call, seconds: '
awk '{ print $3 }' "$WORK/rounds" | spread

echo "== resident memory of the provider with 100 functions, one replica each"
for ((n = 1; n <= 100; n++)); do deploy "many-$n" "$PLAIN" >/dev/null; done
running() { [[ $(docker ps -q --filter "label=com.hyperfaas.installation=$WHO" | wc -l) -ge 101 ]]; }
wait_until 300 running || die "100 functions did not start in 300 s"
for ((n = 1; n <= 100; n++)); do curl -fsS -o /dev/null "$URL/function/many-$n"; done
echo "with 100 functions, each called once: $(resident "$PROVIDER")"
stop
docker ps -aq --filter "label=com.hyperfaas.installation=$WHO" | xargs -r docker rm -fv >/dev/null

echo "== GET /system/function/NAME, answers a second (wrk, 2 threads, 32 connections, 5 s)"
for count in 1 2000; do
    # An engine that is away: functions are known, no container is started.
    start DOCKER_HOST="unix://$WORK/nothing.sock"
    for ((n = 1; n <= count; n++)); do deploy "f-$n" "$PLAIN" >/dev/null; done
    wrk -t2 -c32 -d5s "$URL/system/function/f-$(((count + 1) / 2))" | awk -v n="$count" '/Requests\/sec/ { print n " functions: " $2 " a second" }'
    echo "with $count functions known: $(resident "$PROVIDER")"
    stop
done
