#!/usr/bin/env bash
# Lets schemathesis loose on a live daemon: requests made from the OpenAPI document, valid
# and broken ones, over TCP with a token. The daemon is private: its own network namespace,
# its own data folder. Ends with a failure when the API does other than the document says.
set -euo pipefail
cd "$(dirname "$0")/.."

version=4.32.5 # PyPI
cache=${HEARTH_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth-test}
venv=$cache/schemathesis-$version
seconds=${HEARTH_FUZZ_SECONDS:-120}
port=7070 # in a network namespace of its own

skip() { echo "SKIP: schemathesis: $*"; exit 0; }

install() { # once; needs PyPI
  [ -x "$venv/bin/schemathesis" ] && return
  command -v python3 >/dev/null || skip "there is no python3"
  mkdir -p "$cache"
  rm -rf "$venv"
  python3 -m venv "$venv" 2>/dev/null || { rm -rf "$venv"; skip "python3 cannot make a venv (Debian package python3-venv)"; }
  "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version" 2>"$venv/install.log" ||
    { tail -n 1 "$venv/install.log" >&2; rm -rf "$venv"; skip "PyPI cannot be reached"; }
}

if [ "${1:-}" != --inside ]; then
  [ "$(id -u)" -eq 0 ] || skip "hearthd needs root"
  install
  cargo build --quiet -p hearthd -p hearth-shim
  [ -e "${CARGO_TARGET_DIR:-target}/hearth-guest" ] || [ -e target/debug/hearth-guest ] || cargo xtask guest >/dev/null
  exec unshare --net --mount "$0" --inside
fi

# --- in the namespaces ---
ip link set lo up
data=$(mktemp -d)
daemon=
fuzzer=
token=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
# Devices of the kernel are in no namespace: a pool that the fuzz has set up is the host's.
ours_in_kernel() {
  grep -ls "^HEARTH-${installation:-none}-" /sys/block/dm-*/dm/uuid 2>/dev/null || true
  grep -lsF "$data/" /sys/block/loop*/loop/backing_file 2>/dev/null || true
}
ask_for() { # METHOD PATH: what is not there is gone
  local answer
  answer=$(curl -sS -X "$1" -H "Authorization: Bearer $token" -o /dev/null -w '%{http_code}' --max-time 120 "http://127.0.0.1:$port$2") || return 1
  case $answer in 2* | 404 | 503) ;; *) echo "error: $1 $2 answers $answer" >&2; return 1 ;; esac
}
ids() { curl -fsS -H "Authorization: Bearer $token" "http://127.0.0.1:$port$1" 2>/dev/null | jq -r '.items[].id'; }
leftovers() { grep -lsE "HEARTH_OWNER=${installation:-none}:" /proc/[0-9]*/environ 2>/dev/null || true; }
# shellcheck disable=SC2317 # called by the trap
end() {
  local status=$?
  trap "" INT TERM
  trap - EXIT
  set +e
  [ -z "$fuzzer" ] || kill "$fuzzer" 2>/dev/null || true
  # VMs and the name server outlive the daemon: the last VM takes everything with it.
  for vm in $(curl -fsS -H "Authorization: Bearer $token" "http://127.0.0.1:$port/v1/vms" 2>/dev/null | jq -r '.items[].id'); do
    curl -fsS -X DELETE -H "Authorization: Bearer $token" -o /dev/null \
      "http://127.0.0.1:$port/v1/vms/$vm?force=true&wait=true&timeout=30" || status=1
  done
  if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
    # Volumes and snapshots outlive their VMs, and may be in the pool.
    for one in $(ids /v1/snapshots); do ask_for DELETE "/v1/snapshots/$one" || status=1; done
    for one in $(ids /v1/volumes); do ask_for DELETE "/v1/volumes/$one" || status=1; done
    [ -z "$(ours_in_kernel)" ] || ask_for DELETE "/v1/pool?force=true" || status=1
  fi
  for _ in $(seq 300); do [ -n "$(leftovers)$(ours_in_kernel)" ] || break; sleep 0.2; done
  [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
  [ -z "$daemon" ] || wait "$daemon" 2>/dev/null || true
  local left
  left=$(leftovers)
  if [ -n "$left" ]; then
    echo "error: processes were left behind:" >&2
    for file in $left; do tr '\0' ' ' <"${file%environ}cmdline" >&2 || true; echo >&2; done
    for file in $left; do kill -9 "$(cut -d/ -f3 <<<"$file")" 2>/dev/null || true; done
    status=1
  fi
  if [ -n "$(ours_in_kernel)" ]; then
    echo "error: devices were left in the kernel, and their files in $data:" >&2
    ours_in_kernel >&2
    status=1
    data=
  fi
  rm -rf ${data:+"$data"} .schemathesis
  exit "$status"
}
trap end EXIT
trap 'exit 1' INT TERM

guest=${CARGO_TARGET_DIR:-target}/hearth-guest
[ -e "$guest" ] || guest=target/debug/hearth-guest
: >"$data/config"
env HEARTH_CONFIG="$data/config" HEARTH_DATA_DIR="$data" HEARTH_RUN_DIR="$data/run" \
  HEARTH_SOCKET="$data/run/hearth.sock" HEARTH_API_PORT=$port HEARTH_API_TOKEN="$token" \
  HEARTH_GUEST_PATH="$PWD/$guest" HEARTH_BRIDGE=hrtfuzz0 HEARTH_NFT_TABLE=hearth_fuzz \
  HEARTH_QEMU_PATH=/bin/false HEARTH_LOG=warn "${CARGO_TARGET_DIR:-target}/debug/hearthd" >"$data/daemon.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
  curl -fsS "http://127.0.0.1:$port/health" >/dev/null 2>&1 && break
  kill -0 "$daemon" 2>/dev/null || { cat "$data/daemon.log" >&2; echo "error: hearthd did not start" >&2; exit 1; }
  sleep 0.2
done
installation=$(curl -fsS "http://127.0.0.1:$port/info" | jq -r .installation)

# A VM, an image and a kernel, so that requests get further than "no such object". QEMU is
# no program here: a VM that is started fails, which the API must say.
truncate -s 4M "$data/small.img"
mkfs.ext4 -q -F "$data/small.img"
ask() { curl -fsS --unix-socket "$data/run/hearth.sock" -H 'Content-Type: application/json' -d "$2" "http://hearth$1"; }
ask /v1/images/import "{\"path\":\"$data/small.img\",\"reference\":\"small:1\",\"kind\":\"disk\"}" >/dev/null
"$venv/bin/python" scripts/schemathesis_kernel.py "$data/vmlinux"
ask /v1/kernels "{\"path\":\"$data/vmlinux\",\"name\":\"small\"}" >/dev/null
ask /v1/vms '{"spec":{"name":"web-1","image":"small:1"}}' >/dev/null

status=0
export HEARTH_FUZZ_URL=http://127.0.0.1:$port HEARTH_FUZZ_TOKEN=$token
export SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=$PWD/scripts PYTHONDONTWRITEBYTECODE=1
"$venv/bin/schemathesis" --config-file scripts/schemathesis.toml run api/openapi.json \
  --url "http://127.0.0.1:$port" --header "Authorization: Bearer $token" \
  --max-time "$seconds" --request-timeout 20 --seed 1 &
fuzzer=$!
wait "$fuzzer" || status=$?
fuzzer=
if ! kill -0 "$daemon" 2>/dev/null || grep -qE "panicked at" "$data/daemon.log"; then
  cat "$data/daemon.log" >&2
  echo "error: hearthd ended or panicked" >&2
  status=1
fi
[ "$status" -eq 0 ] || tail -n 20 "$data/daemon.log" >&2
exit "$status"
