#!/usr/bin/env bash
# Makes the admin's name and password in .secrets/, one file each as the OpenFaaS programs expect them, readable by their
# owner alone. Made once and kept. There is no default password.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

umask 077
# An empty folder stands in for the registry logins of users who have none (docker-compose.yml).
mkdir -p "$SECRETS/docker"
chmod 700 "$SECRETS"

user=$SECRETS/basic-auth-user
[[ -s $user ]] || printf admin >"$user"

file=$SECRETS/basic-auth-password
if [[ ! -s $file ]]; then
    password=$(head -c 1024 /dev/urandom | LC_ALL=C tr -dc 'A-Za-z0-9' | cut -c1-32)
    ((${#password} == 32)) || die "cannot make a password from /dev/urandom"
    # Renamed into place, so that it is there whole or not at all.
    printf '%s' "$password" >"$file.new"
    mv "$file.new" "$file"
    say "made a password: .secrets/basic-auth-password"
fi
chmod 600 "$user" "$file"
