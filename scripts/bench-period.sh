#!/usr/bin/env bash
# What the kernel's period of a CPU quota does to the tail: the burner of 10 ms under 200 millicores, with periods in turn.
#
#   scripts/bench-period.sh         a line for each period and rate: medians over the rounds of p50, p90 and p99, ms
#
# Settings: PERIODS_MS (100 50 20 10), RATES, requests a second (4 12 16; 20 is all that 200 millicores can do), ROUNDS (5),
# LENGTH of each (20s), MILLICORES (200). A calm machine is a must; with these settings it takes 20 minutes.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

BIN=$("$ROOT/scripts/bench.sh" bin | tail -1)
"$ROOT/scripts/images.sh" sample >&2
read -ra periods <<<"${PERIODS_MS:-100 50 20 10}"
read -ra rates <<<"${RATES:-4 12 16}"
millicores=${MILLICORES:-200}
results=$(mktemp -d)
declare -A containers urls
remove() {
    rm -rf "$results"
    [[ ${#containers[@]} -eq 0 ]] || docker rm -f "${containers[@]}" >/dev/null
}
trap remove EXIT

for period in "${periods[@]}"; do
    id=$(docker run -d --cpu-period $((period * 1000)) --cpu-quota $((period * millicores)) -p 127.0.0.1::8080 \
        -v "$BIN/fwatchdog:/fwatchdog:ro" --entrypoint /fwatchdog hyperfaas/fn-burn:latest)
    containers[$period]=$id
    urls[$period]=http://$(docker port "$id" 8080/tcp | head -1)/?ms=10
    curl -fsS --retry 50 --retry-delay 1 --retry-all-errors -o /dev/null "${urls[$period]}"
done
for ((round = 1; round <= ${ROUNDS:-5}; round++)); do
    say "round $round" >&2
    for rate in "${rates[@]}"; do
        for period in "${periods[@]}"; do
            "$BIN/bench" --out "$results/$round-$rate-$period" load "${urls[$period]}" --seed "$round" \
                --phases "$rate:${LENGTH:-20s}" 2>&1 |
                sed -n 's/.*latency p50 \([0-9.]*\) p90 \([0-9.]*\) p99 \([0-9.]*\) p99.9.*/\1 \2 \3/p' |
                head -1 >>"$results/$rate-$period"
        done
    done
done

# The middle one of the lines' numbers in a column.
median() { awk -v column="$2" '{ print $column }' "$1" | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
printf '| period, ms | requests/s | p50, ms | p90 | p99 |\n| ---: | ---: | ---: | ---: | ---: |\n'
for rate in "${rates[@]}"; do
    for period in "${periods[@]}"; do
        of=$results/$rate-$period
        printf '| %s | %s | %s | %s | %s |\n' "$period" "$rate" "$(median "$of" 1)" "$(median "$of" 2)" "$(median "$of" 3)"
    done
done
