#!/bin/sh
# Installs Hearth on a systemd host without its Debian package: from a built tree, or from an
# unpacked release (the programs beside this script, in bin/). Never touches data, and never a VM.
set -eu

usage() {
	cat <<'USAGE'
usage: install.sh [--prefix DIR] [--profile PROFILE] [--no-start] | --uninstall [--prefix DIR]

  --prefix DIR       where programs, man pages and completions go (default: /usr/local)
  --profile PROFILE  which build of the tree is installed (default: release)
  --no-start         install only; do not enable and start the service
  --uninstall        stop the daemon and remove what was installed; data, configuration and
                     running VMs stay

DESTDIR, if set, is put before every path (for packagers); nothing is started then.
USAGE
}

say() { printf '%s\n' "$*" >&2; }
die() {
	say "error: $1"
	[ -z "${2-}" ] || say "hint: $2"
	exit 1
}

prefix=/usr/local profile=release start=yes action=install
while [ $# -gt 0 ]; do
	case $1 in
	--prefix) prefix=${2:?--prefix needs a folder} && shift ;;
	--prefix=*) prefix=${1#*=} ;;
	--profile) profile=${2:?--profile needs a name} && shift ;;
	--profile=*) profile=${1#*=} ;;
	--no-start) start=no ;;
	--uninstall) action=uninstall ;;
	-h | --help) usage && exit 0 ;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
case $prefix in
/*) ;;
*) die "--prefix is $prefix, must be an absolute path" ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR-}
units=$root/etc/systemd/system
man=$root$prefix/share/man
# systemd looks for these below /etc and /usr, wherever the programs are.
sysusers=$root/etc/sysusers.d/hearth.conf
tmpfiles=$root/etc/tmpfiles.d/hearth.conf
udev=$root/etc/udev/rules.d/11-hearth.rules
bash_completion=$root$prefix/share/bash-completion/completions/hearth
zsh_completion=$root$prefix/share/zsh/site-functions/_hearth
fish_completion=$root$prefix/share/fish/vendor_completions.d/hearth.fish

running_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

uninstall() {
	if running_systemd; then
		systemctl disable --now hearthd.socket hearthd.service 2>/dev/null || true
		# Name server, filters, bridge and pool go, too, unless a VM needs them.
		"$prefix/sbin/hearthd" clean-up >&2 || true
		# So does their slice, which systemd keeps even when it is empty.
		if grep -qsx 'populated 0' /sys/fs/cgroup/hearth.slice/cgroup.events; then
			systemctl stop hearth.slice || true
		fi
	fi
	rm -f "$root$prefix/bin/hearth" "$root$prefix/sbin/hearthd"
	rm -f "$root$prefix/lib/hearth/hearth-shim" "$root$prefix/lib/hearth/hearth-guest"
	rmdir "$root$prefix/lib/hearth" 2>/dev/null || true
	rm -f "$units/hearthd.service" "$units/hearthd.socket" "$units/hearth.slice"
	rm -f "$sysusers" "$tmpfiles" "$udev" "$bash_completion" "$zsh_completion" "$fish_completion"
	rm -f "$man/man1/hearth.1" "$man"/man1/hearth-*.1 "$man/man8/hearthd.8"
	if running_systemd; then
		systemctl daemon-reload
	fi
	say "Removed the programs and units. These stay: VMs that run (systemctl list-units 'hearth-vm-*'),"
	say "the data in /var/lib/hearth, the configuration in /etc/hearth, the group hearth."
}

# Where the programs are: beside this script in a release, in the target folder of a tree.
programs() {
	if [ -x "$here/bin/hearthd" ]; then
		bin=$here/bin guest=$here/bin/hearth-guest
		return
	fi
	target=${CARGO_TARGET_DIR:-$here/../target}
	folder=$profile
	[ "$profile" = dev ] && folder=debug
	bin=$target/$folder guest=$target/hearth-guest
	for program in "$bin/hearth" "$bin/hearthd" "$bin/hearth-shim" "$guest"; do
		[ -x "$program" ] || die "$program is not there" "cargo build --release && cargo xtask guest"
	done
}

# What cannot work without is an error, what will be missed later a warning.
check_host() {
	[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "Hearth runs on Linux on x86-64, this is $(uname -s) on $(uname -m)"
	release=$(uname -r)
	major=${release%%.*}
	minor=${release#*.}
	minor=${minor%%[!0-9]*}
	# clone3, pidfd_open, openat2 and mounts by descriptor: Linux 5.8 has all of them.
	if [ "$major" -lt 5 ] || { [ "$major" -eq 5 ] && [ "$minor" -lt 8 ]; }; then
		die "Linux $release is too old, 5.8 is needed"
	fi
	[ -n "$root" ] && return
	[ "$(id -u)" -eq 0 ] || die "only root can install" "sudo $0"
	[ -d /run/systemd/system ] || die "systemd is not the init of this host" "start hearthd by hand or from your init; see README.md, \"By hand\""
	for pair in nft:nftables dnsmasq:dnsmasq conntrack:conntrack mke2fs:e2fsprogs qemu-system-x86_64:QEMU; do
		command -v "${pair%%:*}" >/dev/null || say "warning: ${pair%%:*} is not installed (package ${pair#*:} or the like); hearth doctor says what does not work without it"
	done
	[ -S /run/dbus/system_bus_socket ] || say "warning: there is no system bus (package dbus or the like): systemd cannot be asked for the VMs' units"
	[ -e /dev/kvm ] || say "warning: there is no /dev/kvm: VMs will be emulated, which is slow"
}

install_file() { # MODE FILE PATH
	mkdir -p "$(dirname "$3")"
	# A new file under the old name: programs that run keep theirs.
	cp "$2" "$3.new-$$"
	chmod "$1" "$3.new-$$"
	mv -f "$3.new-$$" "$3"
}

install_all() {
	install_file 755 "$bin/hearth" "$root$prefix/bin/hearth"
	install_file 755 "$bin/hearthd" "$root$prefix/sbin/hearthd"
	install_file 755 "$bin/hearth-shim" "$root$prefix/lib/hearth/hearth-shim"
	install_file 755 "$guest" "$root$prefix/lib/hearth/hearth-guest"

	unit=$(mktemp)
	# hearthd looks for its companions beside itself and in /usr/lib/hearth; elsewhere it is told.
	sed "s#^ExecStart=.*#ExecStart=$prefix/sbin/hearthd --shim-path $prefix/lib/hearth/hearth-shim --guest-path $prefix/lib/hearth/hearth-guest#" \
		"$here/systemd/hearthd.service" >"$unit"
	install_file 644 "$unit" "$units/hearthd.service"
	rm -f "$unit"
	install_file 644 "$here/systemd/hearthd.socket" "$units/hearthd.socket"
	install_file 644 "$here/systemd/hearth.slice" "$units/hearth.slice"
	install_file 644 "$here/sysusers.d/hearth.conf" "$sysusers"
	install_file 644 "$here/tmpfiles.d/hearth.conf" "$tmpfiles"
	install_file 644 "$here/udev/11-hearth.rules" "$udev"
	# A configuration that is there is the operator's.
	[ -e "$root/etc/hearth/config" ] || install_file 600 "$here/config" "$root/etc/hearth/config"

	mkdir -p "$man/man8" "$(dirname "$bash_completion")" "$(dirname "$zsh_completion")" "$(dirname "$fish_completion")"
	"$bin/hearth" --quiet man "$man/man1"
	"$bin/hearthd" man >"$man/man8/hearthd.8"
	"$bin/hearth" completions bash >"$bash_completion"
	"$bin/hearth" completions zsh >"$zsh_completion"
	"$bin/hearth" completions fish >"$fish_completion"
}

start_service() {
	systemd-sysusers hearth.conf
	systemd-tmpfiles --create hearth.conf
	systemctl daemon-reload
	systemctl enable hearthd.socket hearthd.service
	# The socket stays as it is if it listens: clients wait in it while the daemon restarts.
	systemctl start hearthd.socket
	systemctl restart hearthd.service
	say "hearthd runs. Next: hearth doctor; hearth kernel import; hearth image pull debian:12"
	say "To let a user use it (which is as good as being root): usermod -aG hearth USER"
}

if [ "$action" = uninstall ]; then
	uninstall
	exit 0
fi
check_host
programs
install_all
if [ "$start" = yes ] && running_systemd; then
	start_service
fi
