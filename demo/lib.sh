# Helpers of the demo. Sourced by run.sh.

say() { printf '  %s\n' "$*" >&2; }
title() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }
run() { printf '\n\033[1m$ %s\033[0m\n' "$*" >&2; "$@"; }
note() { summary+=("$1|$2"); say "→ $1: $2"; }
fail() { printf '\nerror: %s\n' "$*" >&2; [ -n "${2:-}" ] || printf 'hint: the daemon'\''s log is %s\n' "$demo/hearthd.log" >&2; exit 1; }
refuse() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }
now_ms() { date +%s%3N; }

# Nothing is done before all of this holds.
preflight() {
  [ "$(id -u)" -eq 0 ] || refuse "the demo makes TAPs, a bridge and loop devices: it must run as root" "sudo make demo"
  command -v cargo >/dev/null || refuse "cargo is not installed" "install Rust: https://rustup.rs"
  [ -e /dev/net/tun ] || refuse "/dev/net/tun is missing: no TAP can be made here" "modprobe tun, or run on a machine that has it"
  mkdir -p "$demo" "$cache"
  local free; free=$(df --output=avail -B1M "$demo" | tail -n 1)
  [ "$free" -ge 6000 ] || refuse "only $free MiB are free under $demo, 6000 are needed" "make room, or clean an old run: make clean-demo"
  local port
  for port in "$registry_port" "$web_port"; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      refuse "port $port on loopback is taken" "choose others: HEARTH_DEMO_REGISTRY_PORT=… HEARTH_DEMO_WEB_PORT=… make demo"
    fi
  done
  if command -v ip >/dev/null && ip link show "$bridge" >/dev/null 2>&1; then
    refuse "a bridge $bridge exists: another demo seems to run" "wait for its end, or remove what it left: make clean-demo"
  fi
}

# A Debian root filesystem with a small web server, as an OCI image of two layers.
make_image() {
  local layout=$cache/image key
  key=$(sha256sum demo/lib.sh | cut -c1-16)
  if [ -e "$cache/image.$key" ]; then say "using the image that an earlier run made"; return; fi
  say "making a Debian root filesystem with mmdebstrap"
  rm -rf "$layout" "$cache"/image.* "$cache/site"
  if [ ! -e "$cache/rootfs.tar" ]; then
    mmdebstrap --quiet --variant=minbase --include=iproute2,iputils-ping,procps bookworm "$cache/rootfs.new.tar" >"$cache/mmdebstrap.log" 2>&1 ||
      { tail -n 3 "$cache/mmdebstrap.log" >&2; refuse "mmdebstrap could not make a root filesystem" "is a Debian mirror reachable? the log is $cache/mmdebstrap.log"; }
    mv "$cache/rootfs.new.tar" "$cache/rootfs.tar"
  fi
  say "making an OCI image of it with umoci"
  mkdir -p "$cache/site/usr/local/bin" "$cache/site/srv"
  cp /bin/busybox "$cache/site/usr/local/bin/busybox"
  cat >"$cache/site/usr/local/bin/serve" <<'SERVE'
#!/bin/sh
echo "${GREETING:-hello} ($(hostname))" >/srv/index.html
echo "serving on port 80"
exec busybox httpd -f -p 80 -h /srv
SERVE
  chmod 755 "$cache/site/usr/local/bin/serve"
  tar -C "$cache/site" --owner=0 --group=0 -cf "$cache/site.tar" usr srv
  umoci init --layout "$layout"
  umoci new --image "$layout:demo"
  umoci raw add-layer --image "$layout:demo" "$cache/rootfs.tar"
  umoci raw add-layer --image "$layout:demo" "$cache/site.tar"
  umoci config --image "$layout:demo" --config.cmd /usr/local/bin/serve --config.env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin --config.exposedports 80/tcp
  touch "$cache/image.$key"
}

kernel_package() {
  ./scripts/kernel.sh "$cache"
  find "$cache" -name 'linux-image-*-cloud-amd64_*.deb' | sort | tail -n 1
}

start_registry() {
  cat >"$demo/registry.yml" <<YML
version: 0.1
storage: { filesystem: { rootdirectory: $cache/registry } }
http: { addr: 127.0.0.1:$registry_port }
log: { level: warn }
YML
  docker-registry serve "$demo/registry.yml" >"$demo/registry.log" 2>&1 &
  registry_pid=$!
  wait_for "the registry" curl -fsS -o /dev/null "http://127.0.0.1:$registry_port/v2/"
  say "pushing the image with skopeo"
  skopeo copy --quiet --dest-tls-verify=false "oci:$cache/image:demo" "docker://$image"
}

stop_registry() {
  [ -n "$registry_pid" ] || return 0
  kill "$registry_pid" 2>/dev/null || true
  wait "$registry_pid" 2>/dev/null || true
  registry_pid=
}

start_daemon() {
  cat >"$demo/config" <<CONFIG
DATA_DIR=$demo/data
RUN_DIR=$demo/run
SOCKET=$demo/hearthd.sock
BRIDGE=$bridge
NFT_TABLE=$table
SUBNET=10.213.77.0/24
GUEST_PATH=$guest
CONFIG
  hearthd --config "$demo/config" >>"$demo/hearthd.log" 2>&1 &
  daemon_pid=$!
  started=1
  wait_for "the daemon" daemon_answers
}

daemon_answers() {
  kill -0 "$daemon_pid" 2>/dev/null || { tail -n 5 "$demo/hearthd.log" >&2; fail "hearthd did not start"; }
  curl -fsS -o /dev/null --unix-socket "$demo/hearthd.sock" http://hearth/health 2>/dev/null
}

stop_daemon() {
  [ -n "$daemon_pid" ] || return 0
  kill "$daemon_pid" 2>/dev/null || true
  wait "$daemon_pid" 2>/dev/null || true
  daemon_pid=
}

# wait_for WHAT COMMAND…: until the command succeeds, two minutes at most.
wait_for() {
  local what=$1 deadline=$((SECONDS + 120)); shift
  until "$@" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what: not within two minutes"
    sleep 0.02 # between two looks at the condition
  done
}

wait_healthy() { local vm; for vm in "$@"; do hearth wait --condition healthy --timeout 180 "$vm" >/dev/null || fail "$vm does not answer"; done; }
vm_field() { hearth inspect "$1" | jq -r ".[0].$2 // empty"; }
pid_of() { vm_field "$1" pid; }
new_pid() { local pid; pid=$(pid_of "$1"); [ -n "$pid" ] && [ "$pid" != "$2" ]; }
page_answers() { curl -fsS -o /dev/null --max-time 5 "http://127.0.0.1:$web_port/"; }
guest_uptime() { hearth exec "$1" cut -d' ' -f1 /proc/uptime; }
not_earlier() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(b >= a) }'; }
plan_is_empty() { [ "$(hearth plan -o json | jq '.steps | length')" -eq 0 ]; }
no_vms() { [ "$(hearth ps -a -o json | jq length)" -eq 0 ]; }

# What is on the host, one object a line, to compare before with after.
audit() {
  {
    marked_processes
    ip -o link show | awk -F': ' '{print "link " $2}'
    nft list tables | sed 's/^/nft /'
    losetup -ln -O NAME,BACK-FILE | sed 's/^/loop /'
    awk '{print "mount " $5}' /proc/self/mountinfo
    awk '$8 ~ /hearth/ {print "socket " $8}' /proc/net/unix
    find "$demo/data/vms" "$demo/run" -mindepth 1 2>/dev/null | sed 's/^/file /'
  } 2>/dev/null | sort >"$1" || true
}

# Processes that carry an owner mark. One that ends meanwhile, or is a zombie, is none.
marked_processes() {
  local pid
  for pid in /proc/[0-9]*; do
    if tr '\0' '\n' 2>/dev/null <"$pid/environ" | grep -q '^HEARTH_OWNER='; then
      printf 'process %s %s\n' "${pid#/proc/}" "$(tr '\0' ' ' 2>/dev/null <"$pid/cmdline" | cut -c1-60)"
    fi
  done
}
count_leaks() { comm -13 "$demo/before" "$demo/after" | wc -l; }
show_leaks() { comm -13 "$demo/before" "$demo/after" >&2; }

cleanup() {
  local status=$?
  if [ "$started" = 1 ] && [ "$status" -ne 0 ]; then
    [ -n "$daemon_pid" ] && kill -0 "$daemon_pid" 2>/dev/null || start_daemon || true
    hearth ps -a -q 2>/dev/null | xargs -r hearth rm -f >/dev/null 2>&1 || true
    wait_for "the end of the VMs" no_vms || true
  fi
  stop_daemon
  stop_registry
}

# Also what a demo that was killed has left on the host: its daemon knows how to remove it.
clean() {
  export PATH=$PWD/target/release:$PATH
  if [ -S "$demo/hearthd.sock" ] && hearth version >/dev/null 2>&1; then
    refuse "a demo daemon runs" "end it first"
  fi
  if [ -e "$demo/data/hearth.db" ] && [ -x target/release/hearthd ]; then
    guest=$PWD/target/hearth-guest
    trap cleanup EXIT
    start_daemon
    hearth ps -a -q | xargs -r hearth rm -f >/dev/null
    wait_for "the end of the VMs" no_vms
    stop_daemon
    hearthd clean-up --config "$demo/config" >&2
  fi
  rm -rf "$demo"
  say "removed $demo"
}

finished() {
  title "What you have seen"
  local line
  for line in "${summary[@]}"; do printf '  %-32s %s\n' "${line%%|*}" "${line#*|}"; done
  title "Try next"
  cat >&2 <<NEXT
  make test                        run all tests, those with real guests included
  target/release/hearthd --help    every option; docs/configuration.md has them, too
  target/release/hearth doctor     what this host has and what it lacks
  hearth apply -f FILE --dry-run   many VMs from one TOML or JSON file
NEXT
}
