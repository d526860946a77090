#!/usr/bin/env bash
# What CI checks beside the tests: format, clippy without warnings, unused dependencies,
# licences, generated files, shell scripts, alerts, units.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/deps.sh build lint
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

step "shell scripts"
shellcheck --external-sources --severity=warning scripts/*.sh demo/run.sh .ci/run packaging/install.sh
shellcheck --severity=warning --shell=sh packaging/debian/{preinst,postinst,prerm,postrm,lib.sh} crates/hearth-testbed/src/image/offer.sh

step "alerts"
./scripts/alerts.sh >/dev/null

step "units"
units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
# The program is not installed where this runs, and that is all that may be said of it.
sed 's#^ExecStart=.*#ExecStart=/bin/true#' packaging/systemd/hearthd.service >"$units/hearthd.service"
cp packaging/systemd/{hearthd.socket,hearth.slice} "$units"
said=$(systemd-analyze verify --man=no "$units"/hearthd.service "$units"/hearthd.socket "$units"/hearth.slice 2>&1) || true
[ -z "$said" ] || { printf '%s\n' "$said" >&2; exit 1; }
# The figure of docs/operations.md, in tenths: it may become better, not worse.
systemd-analyze security --offline=true --threshold=54 "$units/hearthd.service" >"$units/security" || {
  cat "$units/security" >&2
  echo "error: hearthd.service is fenced in less than docs/operations.md says" >&2
  exit 1
}
