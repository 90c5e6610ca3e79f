#!/usr/bin/env bash
# Runs the provider with its gateway as one plain process on this host, in the foreground, until Ctrl-C. Its functions'
# containers stay, and the next start takes them over; `make down` removes them.
#
# It keeps apart from the services of `make up`: an installation, a network and a state folder (.build/run) of its own.
# HYPERFAAS_PROVIDER_PORT (8081) is the provider's port; RUST_LOG and the provider's own settings are passed on.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

"$ROOT/scripts/ensure.sh"
"$ROOT/scripts/build.sh"
"$ROOT/scripts/secrets.sh"
mkdir -p "$BUILD/run"

cat <<TEXT
  gateway    $GATEWAY
  log in     cat .secrets/basic-auth-password | faas-cli login -g $GATEWAY --password-stdin
TEXT
export HYPERFAAS_ADDRESS=$ADDRESS HYPERFAAS_GATEWAY_PORT=$PORT port=${HYPERFAAS_PROVIDER_PORT:-8081}
export basic_auth=true secret_mount_path=$SECRETS
export HYPERFAAS_STATE_DIR=$BUILD/run HYPERFAAS_INSTALLATION=$RUN_INSTALLATION HYPERFAAS_NETWORK=$RUN_NETWORK
exec "$(bin_dir release)/hyperfaas-provider"
