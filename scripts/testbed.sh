#!/usr/bin/env bash
# The handful of whole-host scenarios that the project's check runs, with the package as users
# install it: `testbed.sh [NAME…]`. The host image is built when there is none for its inputs
# (docs/testing.md says how long each scenario takes). One that fails is tried once more where
# NEXTEST_RETRIES says so, as for the tests; it is listed as FLAKY then.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/deps.sh build run package testbed
export HEARTH_TESTBED_CUTS=${HEARTH_TESTBED_CUTS:-2}
scenarios=("$@")
[ "${#scenarios[@]}" -gt 0 ] || scenarios=(boot restart power-cut)

deb=$(cargo xtask deb --profile dev | tail -n 1)
cargo xtask testbed build
passed=()
failed=()
for name in "${scenarios[@]}"; do
  if cargo xtask testbed run "$name" --package "$deb"; then
    passed+=("$name")
  elif [ "${NEXTEST_RETRIES:-0}" -gt 0 ] && cargo xtask testbed run "$name" --package "$deb"; then
    echo "FLAKY $name: it failed once"
    passed+=("$name")
  else
    failed+=("$name")
  fi
done
echo "testbed: ${#passed[@]} passed (${passed[*]}), ${#failed[@]} failed (${failed[*]})"
[ "${#failed[@]}" -eq 0 ]
