#!/usr/bin/env bash
# Checks the alert rules in deploy/prometheus and runs their tests: each alert has cases that
# fire and cases that do not. That they name metrics which exist is a test of hearthd.
set -euo pipefail
cd "$(dirname "$0")/../deploy/prometheus"

../../scripts/deps.sh lint
promtool check rules hearth.rules.yml
promtool test rules tests/*.yml
