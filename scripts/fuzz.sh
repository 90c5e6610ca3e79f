#!/usr/bin/env bash
# Runs every fuzz target under libFuzzer for FUZZ_SECONDS (default 60), with coverage, on the stable compiler. What it finds
# it leaves in fuzz/artifacts, and it keeps its corpus, which begins with the seeds of the bounded run, in fuzz/corpus; both
# are ignored by git. Needs a C++ compiler.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

SECONDS_EACH=${FUZZ_SECONDS:-60}
cd "$ROOT"
# Without coverage, which only links into the targets.
cargo run --quiet --locked -p hyperfaas-fuzz --bin seeds -- fuzz/corpus
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}/fuzz
# What cargo-fuzz sets, but for sanitizers, which only nightly compilers have. The code under test has no unsafe block.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks"

for target in lane_frames control_lines request_head answer; do
    say "fuzzing $target for $SECONDS_EACH s"
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    cargo run --quiet --release --locked -p hyperfaas-fuzz --features libfuzzer --bin "$target" -- \
        "fuzz/corpus/$target" -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$SECONDS_EACH" -max_len=8192 \
        -print_final_stats=1
done
