#!/usr/bin/env bash
# Plants one bug at a time in a copy of the engine, and expects the simulation to find it: a test
# that cannot fail proves nothing. Needs no network once the workspace has been built.
#
#   engine/tests/mutants/run.sh [NAME...]      all of them, or those named
#
# SEEDS (2000) is how many the simulation may try. The copy has a version of its own: to cargo it
# would else be the same package, and a mutant would be run in the original's place.
# Ends with a line `N passed, N failed`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
seeds=${SEEDS:-2000}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
copy=$CARGO_TARGET_DIR/mutants

# The engine alone: a workspace of one, with the versions that the whole one has. Always in the same
# place, so that one build takes the place of the last.
rm -rf "$copy/engine"
mkdir -p "$copy"
sed -e 's|^members = .*|members = ["engine"]|' -e 's|^version = .*|version = "0.0.0-mutant"|' \
    "$root/Cargo.toml" >"$copy/Cargo.toml"
cp "$root/Cargo.lock" "$copy/"
cp -r "$root/engine" "$copy/engine"

if [ $# -eq 0 ]; then
    mapfile -t names < <(cd "$here" && ls -- *.patch)
else
    names=("${@/%/.patch}")
fi

cargo=(cargo test --quiet --offline -p kariz-engine --test simulation)
passed=0
failed=0
miss() {
    echo "$1: $2"
    failed=$((failed + 1))
}
for patch in "${names[@]}"; do
    name=${patch%.patch}
    if ! patch -d "$copy" -p1 --quiet --no-backup-if-mismatch <"$here/$patch"; then
        miss "$name" "the patch no longer applies: plant the bug anew"
        rm -rf "$copy/engine" && cp -r "$root/engine" "$copy/engine"
        continue
    fi
    if ! (cd "$copy" && "${cargo[@]}" --no-run) >"$copy/log" 2>&1; then
        cat "$copy/log"
        miss "$name" "does not compile"
    elif (cd "$copy" && KARIZ_SEEDS=$seeds "${cargo[@]}") >"$copy/log" 2>&1; then
        miss "$name" "NOT FOUND in $seeds seeds"
    else
        seed=$(sed -n 's/.*replay: KARIZ_SEED=\([0-9]*\).*/\1/p' "$copy/log" | sort -n | head -1)
        if [ -n "$seed" ]; then
            echo "$name: found by seed $seed"
            passed=$((passed + 1))
        else
            # A failure without a seed is not the simulation's.
            cat "$copy/log"
            miss "$name" "failed without a seed"
        fi
    fi
    patch -d "$copy" -p1 --quiet -R <"$here/$patch"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
