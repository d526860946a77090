#!/bin/sh
# A package source inside of the image, for hosts that reach no mirror: offer.sh ROOT PACKAGE...
# Run by mmdebstrap when ROOT has its own packages. The index lists what an installation of the
# PACKAGEs with everything recommended would want; the files are there of what they depend on.
set -eu
root=$1
shift
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
pool=$root/usr/share/hearth-testbed/apt
mkdir -p "$pool"

# Those of the packages that ROOT has.
rm -f "$root"/var/cache/apt/archives/*.deb
apt-get -q -y --download-only -o APT::Install-Recommends=false install "$@"
for file in "$root"/var/cache/apt/archives/*.deb; do
	# A mirror's names have no epoch.
	mv "$file" "$pool/$(basename "$file" | sed 's/_[0-9]*%3a/_/')"
done
apt-get -s -o APT::Install-Recommends=true install "$@" | sed -n 's/^Inst \([^ ]*\) .*/\1/p' |
	xargs apt-cache show --no-all-versions | sed 's#^Filename: .*/#Filename: ./#' >"$pool/Packages"
