#!/usr/bin/env bash
# Compares the public API of the libraries with their committed listings, API.txt beside each
# Cargo.toml, so that nobody changes it unaware. A line that goes or changes breaks users.
#
#   .ci/api.sh             shows the difference, if there is one
#   .ci/api.sh --renew     writes the listings anew
#
# rustdoc writes its JSON on stable if told so; the format is that of the pinned cargo-public-api,
# which must be taken anew with a new Rust. Ends with a line `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}/api
install=$(python3 server/tests/clients/install.py cargo_public_api)
tool=$(sed -n 's/^cargo_public_api //p' <<<"$install")
passed=0
failed=0

# All that users can name, and the traits of each type. Left out: what `derive` writes inside an
# impl, impls for all types, and marker traits of the compiler's own or that say nothing of us.
listing() {
    local json=$target/doc/${1//-/_}.json
    RUSTC_BOOTSTRAP=1 cargo rustdoc --quiet --locked -p "$1" --lib --target-dir "$target" -- \
        -Z unstable-options --output-format json --cap-lints allow || return
    # It warns that stable cannot make the JSON, which is there.
    "$tool" public-api --rustdoc-json "$json" -sss >"$target/short" || return
    "$tool" public-api --rustdoc-json "$json" --omit blanket-impls >"$target/long" || return
    awk 'FNR == NR { keep[$0]; next } $0 in keep || /^(unsafe )?impl/' "$target/short" "$target/long" |
        grep -vE '^impl.* (core::marker::(Freeze|StructuralPartialEq|Unpin|UnsafeUnpin)|core::panic::unwind_safe::)'
}

for crate in kariz-engine:engine kariz-protocol:server/protocol; do
    name=${crate%:*}
    file=${crate#*:}/API.txt
    mkdir -p "$target"
    if ! listing "$name" >"$target/$name.txt" 2>"$target/log"; then
        cat "$target/log"
        echo "$name: no listing could be made"
        failed=$((failed + 1))
    elif [ "${1-}" = --renew ]; then
        cp "$target/$name.txt" "$file"
        passed=$((passed + 1))
    elif diff -u "$file" "$target/$name.txt"; then
        passed=$((passed + 1))
    else
        echo "$name: the public API is not what $file says. If that is meant: .ci/api.sh --renew"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
