#!/usr/bin/env bash
# Measurements with the program in bench/, by the programs of the release profile.
#
#   scripts/bench.sh bin            builds, prints the folder of the program
#   scripts/bench.sh short          the short set, under ten minutes; page and plots go to .build/bench/report
#   scripts/bench.sh full           everything docs/benchmarks.md shows, about four hours; writes that page
#   scripts/bench.sh check [...]    has anything become a fifth slower? `check --record` writes bench/baseline.json
#
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

# Modes in turn within each shape, so that a machine that changes changes for all.
full() {
    local modes=static,hpa,hpa-tuned,alertmanager,out,up-out,full prometheus
    OUT=$BUILD/bench-full
    rm -rf "$OUT"
    prometheus=$("$ROOT/scripts/bench-tools.sh")
    "$ROOT/scripts/images.sh" sample >&2
    bench ceiling
    bench ladder --rounds 20 "${others[@]}"
    bench cold --rounds 50
    bench density --functions 100
    bench burst --shape step15 --rounds 3 --mode "$modes" --prometheus "$prometheus" || status=1
    bench burst --shape step5,spikes,ramp,zero --mode "$modes" --prometheus "$prometheus" || status=1
    bench burst --shape opposite --mode static,out,up-out,full || status=1
    bench burst --shape step15 --ceiling 400 --mode "$modes" --prometheus "$prometheus" || status=1
    bench report --to docs
}

status=0
case $WHAT in
bin) printf '%s\n' "$BIN" ;;
short) short ;;
full) full ;;
check) OUT=$BUILD/bench bench check "$@" ;;
*) die "usage: $0 bin|short|full|check" ;;
esac
exit "$status"
