#!/usr/bin/env bash
# Runs all tests: makes sure an engine is there, builds the programs and the sample images that tests use, then
# `cargo test`. The last line sums up: "N passed, N failed".
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

"$ROOT/scripts/ensure.sh" tests
"$ROOT/scripts/images.sh" sample

cd "$ROOT"
mkdir -p "$BUILD"
say "testing"
export HYPERFAAS_BIN_DIR HYPERFAAS_TEST_RUN
HYPERFAAS_BIN_DIR=$(bin_dir release)
HYPERFAAS_TEST_RUN=$(printf '%06x' "$$")-
# Of this run: what the engine has made for a provider that a test had killed, after the test had cleaned up.
ours() {
    docker "$@" --filter "label=$MANAGED" |
        awk -v run="test-$HYPERFAAS_TEST_RUN" 'index($1, run) == 1 { print $2 }'
}
sweep() {
    local installation='{{.Label "com.hyperfaas.installation"}}'
    ours container ls --all --format "$installation {{.ID}}" | xargs -r docker rm --force --volumes
    ours network ls --format "$installation {{.ID}}" | xargs -r docker network rm
    ours volume ls --format "$installation {{.Name}}" | xargs -r docker volume rm --force
}
trap 'sweep >/dev/null 2>&1 || true' EXIT
status=0
cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$BUILD/test.log" || status=$?

# "test result: ok. 12 passed; 0 failed; 1 ignored; …", one a test program.
total=$(awk '
    /^test result:/ { for (i = 2; i <= NF; i++) count[$i] += $(i - 1) }
    END {
        printf "%d passed, %d failed", count["passed;"], count["failed;"]
        if (count["ignored;"]) printf ", %d skipped", count["ignored;"]
        print ""
    }' "$BUILD/test.log")
if [[ $total == 0\ passed* ]]; then
    echo "error: no test ran" >&2
    status=1
fi
# What failed, once more where it is looked for first: each test's name with what it said when it gave up.
if ((status)); then
    awk '
        /^---- .* stdout ----$/ { name = $2 }
        /^thread .* panicked at / && name { print "FAILED " name; left = 8; name = "" }
        left > 0 { print "    " substr($0, 1, 400); left-- }
    ' "$BUILD/test.log"
fi
say "tests done"
tee "$BUILD/test.total" <<<"$total"
exit "$status"
