#!/usr/bin/env bash
# The demo: real VMs from a real image, and what happens when things are killed.
# Everything it makes is under target/demo; a second run uses what the first one made.
set -euo pipefail
cd "$(dirname "$0")/.."

demo=$PWD/target/demo
cache=$demo/cache
registry_port=${HEARTH_DEMO_REGISTRY_PORT:-15000}
web_port=${HEARTH_DEMO_WEB_PORT:-18080}
image=localhost:$registry_port/hearth/demo:1
bridge=hearthdemo0
table=hearth_demo
export HEARTH_HOST=unix://$demo/hearthd.sock
daemon_pid='' registry_pid='' started=0
declare -a summary=()

. demo/lib.sh

main() {
  [ "${1:-}" = --clean ] && { clean; exit 0; }
  preflight
  trap cleanup EXIT
  title "Getting ready"
  ./scripts/deps.sh build run demo
  say "building hearth, hearthd and the guest agent (release)"
  cargo build --release --quiet -p hearthd -p hearth -p hearth-shim
  guest=$(cargo xtask guest)
  export PATH=$PWD/target/release:$PATH
  make_image
  kernel=$(kernel_package)
  audit "$demo/before"

  title "A private daemon and a real registry, on loopback"
  start_registry
  start_daemon
  hearth version
  run hearth kernel import "$kernel"
  run hearth image pull "$image"
  run hearth image ls

  title "Two VMs"
  run hearth run -d --name web --restart always -p "127.0.0.1:$web_port:80" -e GREETING="hello from a microVM" "$image"
  run hearth run -d --name worker --restart on-failure:3 --memory 192m "$image" sleep infinity
  wait_healthy web worker
  run hearth ps
  run hearth exec web uname -a
  run hearth exec web ping -c 1 -W 5 worker
  run hearth logs --tail 3 web
  wait_for "the page" page_answers
  say "the published port, asked with curl:"
  run curl -fsS "http://127.0.0.1:$web_port/"

  title "kill -9 a VMM: it comes back by itself"
  local before after
  before=$(pid_of web)
  local t0; t0=$(now_ms)
  say "kill -9 $before"
  kill -9 "$before"
  wait_for "a new VMM for web" new_pid web "$before"
  after=$(pid_of web)
  note "VMM killed → back" "pid $before → $after in $(( $(now_ms) - t0 )) ms (restart policy always)"
  wait_for "the page" page_answers
  note "… and its page is served again" "$(( $(now_ms) - t0 )) ms after the kill"
  run hearth ps

  title "kill -9 the daemon: the guests do not notice"
  local pid_before uptime_before uptime_after
  pid_before=$(pid_of web); uptime_before=$(guest_uptime web)
  say "guest uptime $uptime_before s, VMM pid $pid_before; kill -9 $daemon_pid (hearthd)"
  kill -9 "$daemon_pid"; wait "$daemon_pid" 2>/dev/null || true
  run curl -fsS "http://127.0.0.1:$web_port/"
  t0=$(now_ms)
  start_daemon
  note "daemon killed → answering" "$(( $(now_ms) - t0 )) ms, 2 VMs adopted"
  uptime_after=$(guest_uptime web)
  [ "$(pid_of web)" = "$pid_before" ] || fail "web has another VMM pid: $(pid_of web)"
  not_earlier "$uptime_before" "$uptime_after" || fail "the guest's uptime went back: $uptime_after s"
  note "same VMM, same guest" "pid $pid_before, uptime $uptime_before s → $uptime_after s"
  run hearth plan

  title "Remove everything"
  run hearth stop worker
  run hearth rm -f web worker
  wait_for "no VM left" no_vms
  wait_for "an empty plan" plan_is_empty
  run hearth ps -a
  stop_daemon
  stop_registry
  audit "$demo/after"
  local leaks; leaks=$(count_leaks)
  note "left behind" "$leaks (processes, TAPs, bridge, nft table, loop devices, mounts, sockets, files)"
  [ "$leaks" -eq 0 ] || { show_leaks; fail "something was left behind"; }
  finished
}

main "$@"
