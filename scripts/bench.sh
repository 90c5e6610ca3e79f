#!/usr/bin/env bash
# Measurements with the program in bench/, by the programs of the release profile.
#
#   scripts/bench.sh bin            builds, prints the folder of the program
#   scripts/bench.sh short          the short set, under ten minutes; page and plots go to .build/bench/report
#   scripts/bench.sh full [PART…]   everything docs/benchmarks.md shows, or parts of it, about two hours; writes that page
#   scripts/bench.sh check [...]    has anything become a fifth slower? `check --record` writes bench/baseline.json
#
# Settings: ROUNDS of each burst (1); TRACE, a folder with a day in Azure's 2019 format, and TRACE_SOURCE, what it is.
# The originals stand beside ours where their static programs are named: OF_WATCHDOG=path CLASSIC_WATCHDOG=path.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

WHAT=${1:-short}
shift || true
"$ROOT/scripts/ensure.sh" >&2
"$ROOT/scripts/build.sh" >&2
(cd "$ROOT" && cargo build --release --locked -p hyperfaas-bench) >&2
BIN=$(bin_dir release)
export HYPERFAAS_BIN_DIR=$BIN

cd "$ROOT"
bench() {
    say "bench $*"
    "$BIN/bench" --out "$OUT" "$@"
}
others=()
[[ -z ${OF_WATCHDOG:-} ]] || others+=(--watchdog "of-watchdog=$OF_WATCHDOG")
[[ -z ${CLASSIC_WATCHDOG:-} ]] || others+=(--classic "classic-watchdog=$CLASSIC_WATCHDOG")

short() {
    OUT=$BUILD/bench
    rm -rf "$OUT"
    bench ceiling --length 2s
    bench ladder --rounds 5 --length 500ms --connections 1,16,64 "${others[@]}"
    bench cold --rounds 5
    bench density --functions 10
    # What could be measured is shown, whatever could not.
    bench burst --mode static,hpa-tuned,full --before 10s --after 60s || status=1
    bench report --to "$OUT/report"
}

# What docs/benchmarks.md shows, in parts that can be run by themselves: their results stay until their next run.
# Modes in turn within each shape, so that a machine that changes changes for all.
PARTS=(paths cold density burst ceiling shapes scheduler)
full() {
    local part
    OUT=$BUILD/bench-full
    for part in "${@:-${PARTS[@]}}"; do
        [[ " ${PARTS[*]} " == *" $part "* ]] || die "no part $part, only: ${PARTS[*]}"
    done
    for part in "${@:-${PARTS[@]}}"; do "part_$part"; done
    bench report --to docs
}

part_paths() {
    bench ceiling
    bench ladder "${others[@]}"
    bench bodies
}
part_cold() {
    "$ROOT/scripts/images.sh" sample >&2
    bench cold --rounds 30
    bench cold --rounds 30 --name standby --setting HYPERFAAS_SLOTS=true --setting HYPERFAAS_SCALE_COOL=500ms
    bench cold --rounds 30 --name zygote --setting HYPERFAAS_SLOTS=true --setting HYPERFAAS_SCALE_COOL=500ms --setting HYPERFAAS_ZYGOTES=1
    bench surge
}
part_density() {
    bench density --functions 50
    bench sparse
}
part_burst() { steps --mode static,hpa,hpa-tuned,alertmanager,out,up-out,full; }
part_ceiling() { steps --ceiling 400 --mode static,out,up-out,full; }
part_shapes() {
    bench burst --shape step5,spikes,ramp,zero --after 1m --mode static,hpa-tuned,out,up-out,full || status=1
    bench burst --shape opposite --after 2m --mode static,out,up-out,full || status=1
}
steps() {
    local prometheus
    prometheus=$("$ROOT/scripts/bench-tools.sh")
    bench burst --shape step15 --rounds "${ROUNDS:-1}" --prometheus "$prometheus" "$@" || status=1
}
part_scheduler() {
    cargo build --release --locked -p hyperfaas-sim >&2
    bench scheduler ${TRACE:+--trace "$TRACE"} ${TRACE_SOURCE:+--source "$TRACE_SOURCE"}
}

status=0
case $WHAT in
bin) printf '%s\n' "$BIN" ;;
short) short ;;
full) full "$@" ;;
check) OUT=$BUILD/bench bench check "$@" ;;
*) die "usage: $0 bin|short|full|check" ;;
esac
exit "$status"
