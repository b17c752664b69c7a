#!/usr/bin/env bash
# Plants one bug at a time in a copy of the engine, and expects the simulation to find it: a test
# that cannot fail proves nothing. Needs no network once the workspace has been built.
#
#   engine/tests/mutants/run.sh [NAME...]      all of them, or those named
#
# SEEDS (2000) is how many the simulation may try; CARGO_TARGET_DIR is where it is built.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
seeds=${SEEDS:-2000}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/mutants}

# The engine alone: a workspace of one, with the versions that the whole one has.
sed 's|^members = .*|members = ["engine"]|' "$root/Cargo.toml" >"$copy/Cargo.toml"
cp "$root/Cargo.lock" "$copy/"
cp -r "$root/engine" "$copy/engine"

if [ $# -eq 0 ]; then
    mapfile -t names < <(cd "$here" && ls -- *.patch)
else
    names=("${@/%/.patch}")
fi

failed=0
for patch in "${names[@]}"; do
    name=${patch%.patch}
    if ! patch -d "$copy" -p1 --quiet --no-backup-if-mismatch <"$here/$patch"; then
        echo "$name: the patch no longer applies: plant the bug anew" >&2
        exit 1
    fi
    cargo=(cargo test --quiet --offline --profile sim -p kariz-engine --test simulation)
    if ! (cd "$copy" && "${cargo[@]}" --no-run) >"$copy/log" 2>&1; then
        cat "$copy/log" >&2
        echo "$name: does not compile" >&2
        exit 1
    fi
    if (cd "$copy" && KARIZ_SEEDS=$seeds "${cargo[@]}") >"$copy/log" 2>&1; then
        echo "$name: NOT FOUND in $seeds seeds"
        failed=1
    else
        seed=$(sed -n 's/.*replay: KARIZ_SEED=\([0-9]*\).*/\1/p' "$copy/log" | sort -n | head -1)
        # A failure without a seed is not the simulation's.
        if [ -z "$seed" ]; then
            cat "$copy/log" >&2
            exit 1
        fi
        echo "$name: found by seed $seed"
    fi
    patch -d "$copy" -p1 --quiet -R <"$here/$patch"
done
exit "$failed"
