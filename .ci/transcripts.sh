#!/usr/bin/env bash
# The engine's examples do what their documents show, and are as short as is said of them. Wants the
# release build of the server; builds the examples. Ends with a line `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/.."

# A server that is a page or three, comments and all.
lines_max=200
python3 server/tests/clients/install.py curl redis kcat
cargo build --release --locked -p kariz-engine -p kariz-server --examples
for main in engine/examples/*/main.rs; do
    lines=$(wc -l <"$main")
    if [ "$lines" -ge "$lines_max" ]; then
        echo "$main has $lines lines, and less than $lines_max is promised"
        exit 1
    fi
done
python3 -u engine/tests/transcript.py "${CARGO_TARGET_DIR:-target}/release" engine/examples/*/README.md
