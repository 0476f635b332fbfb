#!/bin/bash
# Runs all tests; brings what they need. A test that cannot run is a failure.
# VIRTKEEP_TEST_SEQUENCES and VIRTKEEP_TEST_SEED are for the randomized one, see tests/it/random.rs;
# VIRTKEEP_CHAOS_ROUNDS and VIRTKEEP_CHAOS_SEED for tests/chaos.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

case ${1-} in
-h | --help)
    echo "usage: tests/run.sh [ARGUMENT...]"
    echo "  Installs what is missing and runs all tests; arguments go to cargo test."
    exit
    ;;
esac

started=$SECONDS
failed=()
tests/install.sh --tests
cargo test --locked "$@" || failed+=("cargo test")

# Programs of their own: shell tests beside the Rust ones.
shopt -s nullglob
for script in tests/sh/*.sh tests/chaos.sh; do
    echo "== $script"
    "$script" || failed+=("$script")
done

echo
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "all tests passed in $((SECONDS - started)) seconds"
