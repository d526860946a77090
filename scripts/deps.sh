#!/usr/bin/env bash
# Installs Debian packages by purpose: `deps.sh build run test package testbed lint demo`. Says which and why,
# and does nothing when all are there.
set -euo pipefail

declare -A groups=(
  [build]="gcc:links_and_compiles_SQLite_and_zstd libc6-dev:static_guest_binary mold:fast_linker make:the_two_commands"
  [run]="qemu-system-x86:the_VMM nftables:filters_and_published_ports dnsmasq-base:names_of_guests conntrack:forgets_connections_of_reused_addresses e2fsprogs:makes_ext4_volumes iproute2:shows_the_network_to_people"
  [test]="docker-registry:real_registry skopeo:pushes_images umoci:makes_OCI_images openssl:certificates_of_test_registries busybox-static:tiny_guests cpio:checks_initramfs_archives curl:asks_published_ports jq:reads_JSON kmod:checks_module_order xfsprogs:reflink_tests procps:finds_processes zstd:compressed_layers xz-utils:compressed_layers ca-certificates:TLS python3-prometheus-client:reads_metrics_as_Prometheus_does qemu-guest-agent:answers_in_a_guest python3-venv:schemathesis_has_a_place_of_its_own"
  [package]="dpkg-dev:finds_the_libraries_that_programs_need binutils:strips_programs"
  [testbed]="mmdebstrap:makes_the_host_image nbdkit:disks_that_lose_what_was_not_flushed qemu-utils:disk_overlays openssh-client:drives_the_host"
  [lint]="shellcheck:reads_shell_scripts systemd:checks_units prometheus:promtool_tests_the_alert_rules"
  [demo]="docker-registry:real_registry_on_loopback skopeo:pushes_the_image umoci:makes_the_OCI_image mmdebstrap:makes_the_Debian_root_filesystem busybox-static:web_server_in_the_image curl:asks_the_published_port jq:reads_JSON procps:counts_processes_for_the_leak_audit"
)

missing=()
for group in "$@"; do
  for entry in ${groups[$group]}; do
    package=${entry%%:*}
    if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
      missing+=("$package")
      printf '  %-18s %s\n' "$package" "$(tr _ ' ' <<<"${entry#*:}")" >&2
    fi
  done
done
[ "${#missing[@]}" -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "error: the Debian packages above are missing and only root can install them" >&2
  echo "hint: run as root, or: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "installing the Debian packages above" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 5 "$log" >&2
  echo "error: the packages could not be installed" >&2
  echo "hint: is a Debian mirror reachable? the whole output is in $log" >&2
  exit 1
fi
rm -f "$log"
