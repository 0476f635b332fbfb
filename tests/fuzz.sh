#!/bin/bash
# Fuzzes what reads foreign bytes, each target for some time; see tests/fuzz/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:$HOME/.cargo/bin

case ${1-} in
-h | --help)
    echo "usage: tests/fuzz.sh [SECONDS [TARGET...]]"
    echo "  Runs all fuzz targets, 60 seconds each. Needs a nightly Rust and cargo-fuzz."
    exit
    ;;
esac
seconds=${1:-60}
targets=("${@:2}")
if [ ${#targets[@]} = 0 ]; then mapfile -t targets < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' tests/fuzz/Cargo.toml); fi

# What is found on the way is kept in memory and forgotten: the corpus in the repository stays small.
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
failed=()
for target in "${targets[@]}"; do
    echo "== $target"
    mkdir -p "$found/$target"
    # Memory must follow the input, not a number in it; see tests/fuzz/README.md.
    cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" "$found/$target" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 -malloc_limit_mb=24 -max_len=65536 -print_final_stats=1 \
        2>&1 | tail -n 40 || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
