#!/usr/bin/env bash
# cargo-deny, as .deny.toml has it:   .ci/deny.sh licenses bans sources    or   .ci/deny.sh advisories
#
# Advisories are on GitHub. Where that cannot be reached they are not checked, and the status is 77,
# which is no pass.
set -euo pipefail
cd "$(dirname "$0")/.."

install=$(python3 server/tests/clients/install.py cargo_deny)
deny=$(sed -n 's/^cargo_deny //p' <<<"$install")
if [ "$*" = advisories ] && ! "$deny" --config .deny.toml fetch db; then
    echo "NO ADVISORY WAS LOOKED AT: their list cannot be fetched from this machine."
    exit 77
fi
"$deny" --config .deny.toml check "$@"
