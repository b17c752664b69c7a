#!/usr/bin/env bash
# The Rust that Cargo.toml and the documents promise is one that this was built with: the active
# one, or one that is installed beside it and checks the workspace now. (An older one cargo refuses,
# and of what is newer in the standard library clippy's `incompatible_msrv` warns.)
set -euo pipefail
cd "$(dirname "$0")/.."

stated=$(sed -nE 's/^rust-version = "([0-9]+\.[0-9]+)"$/\1/p' Cargo.toml)
active=$(rustc --version | sed -nE 's/^rustc ([0-9]+\.[0-9]+)\..*/\1/p')
if [ -z "$stated" ] || [ -z "$active" ]; then
    echo "no rust-version = \"X.Y\" in Cargo.toml, or no version of rustc"
    exit 1
fi
for document in README.md CONTRIBUTING.md; do
    if ! grep -qE "Rust ${stated//./\\.}([^0-9.]|\.?$|\.[^0-9])" "$document"; then
        echo "$document does not say Rust $stated, which Cargo.toml states"
        exit 1
    fi
done
if [ "$active" = "$stated" ]; then
    echo "all is built with Rust $stated, which is what Cargo.toml states"
    exit 0
fi
toolchain=$(rustup toolchain list 2>/dev/null | sed -nE "s/^(${stated//./\\.}(\.[0-9]+)?-[^ ]+).*/\1/p" | tail -1)
if [ -z "$toolchain" ]; then
    echo "Cargo.toml states Rust $stated, and Rust $active is what builds: nobody knows whether $stated does."
    echo "Either rustup toolchain install $stated, or state $active in Cargo.toml and the documents."
    exit 1
fi
echo "checking with $toolchain, beside $active"
RUSTUP_TOOLCHAIN=$toolchain cargo check --workspace --all-targets --locked --target-dir "${CARGO_TARGET_DIR:-target}/msrv"
