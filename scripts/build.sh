#!/usr/bin/env bash
# Builds the programs that are shipped, and those of the sample functions, in the release profile.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

cd "$ROOT"
exec cargo build --release --locked -p hyperfaas-provider -p hyperfaas-watchdog -p hyperfaas-gateway -p hyperfaas-cli \
    -p hyperfaas-samples
