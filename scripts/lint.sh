#!/usr/bin/env bash
# What CI checks beside the tests: format, clippy without warnings, unused dependencies,
# licences, generated files.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/deps.sh build
need() { # need COMMAND CRATE: a cargo subcommand, installed once
  command -v "$1" >/dev/null && return
  echo "installing $2 (once)" >&2
  cargo install --locked --quiet "$2"
}

step() { printf '== %s\n' "$*" >&2; }

step "format"
cargo fmt --all --check

step "clippy"
cargo clippy --workspace --all-targets --all-features --quiet -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --lib --quiet

step "unused dependencies"
need cargo-machete cargo-machete
cargo machete

step "licences and duplicate dependencies"
need cargo-deny cargo-deny
cargo deny --log-level error check --hide-inclusion-graph bans licenses sources

step "generated files"
cargo xtask generate --check
