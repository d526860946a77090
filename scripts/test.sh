#!/usr/bin/env bash
# Runs every test, those with real guests included, and closes with the counts.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/deps.sh build run test
if ! command -v cargo-nextest >/dev/null; then
  echo "installing cargo-nextest (runs the tests)" >&2
  cargo install --locked --quiet cargo-nextest
fi

# Tests find the guest agent and the shim beside the daemon, as an installation has them.
cargo xtask guest
cargo build --workspace --all-features --bins

# Real guests need a kernel: Debian's cloud kernel, downloaded once.
export HEARTH_TEST_CACHE=${HEARTH_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth-test}
./scripts/kernel.sh "$HEARTH_TEST_CACHE"
# Images from S3 need a server that checks signatures.
./scripts/seaweedfs.sh "$HEARTH_TEST_CACHE"

report=${CARGO_TARGET_DIR:-target}/nextest/default/junit.xml
log=target/test-output.log
rm -f "$report"
status=0
cargo nextest run --workspace --all-features --no-fail-fast "$@" 2>&1 | tee "$log" || status=1
cargo test --workspace --doc --all-features --quiet >target/doctest.log 2>&1 || { status=1; tail -n 30 target/doctest.log; }

# The API as a stranger would use it, against a live daemon.
./scripts/schemathesis.sh >target/schemathesis.log 2>&1 || { status=1; tail -n 60 target/schemathesis.log; }

# The simulated host at length, built optimised: the same worlds each time. A machine that is
# busy otherwise plays fewer, and says so.
: >target/soak.log
if [ $# -eq 0 ]; then
  if timeout 30m cargo xtask soak --first 0 --minutes 4 >target/soak.log 2>&1; then
    grep -aE '^built in|^[0-9]+ worlds in' target/soak.log || true
  else
    status=1
    tail -n 100 target/soak.log
  fi
fi

# A skipped check is said and counted: it must not look like a passed one.
skips=$(cat "$report" target/doctest.log target/schemathesis.log target/soak.log | grep -aoE '^ *SKIP: .*' | sort | uniq -c || true)
[ -z "$skips" ] || echo "$skips"
skipped=$(awk '{n += $1} END {print n + 0}' <<<"$skips")
counts=$(grep -aE '^ *Summary' "$log" | tail -n 1 || true)
passed=$(grep -oE '[0-9]+ passed' <<<"$counts" | grep -oE '[0-9]+' || echo 0)
failed=$({ grep -oE '[0-9]+ (failed|timed out)' <<<"$counts" || true; } | awk '{n += $1} END {print n + 0}')
echo "$passed passed, $failed failed, $skipped skipped"
[ "$passed" -gt 0 ] || status=1
exit "$status"
