#!/usr/bin/env bash
# Downloads Debian's cloud kernel package into a folder, once: kernel.sh FOLDER.
set -euo pipefail
folder=$1
mkdir -p "$folder"
if ls "$folder"/linux-image-*-cloud-amd64_*.deb >/dev/null 2>&1; then
  exit 0
fi
# Without package lists apt-cache fails, which is no reason to stop here.
newest() { { apt-cache depends linux-image-cloud-amd64 2>/dev/null || true; } | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1; }
package=$(newest)
if [ -z "$package" ]; then
  apt-get update -q >/dev/null || true
  package=$(newest)
fi
if [ -z "$package" ]; then
  echo "error: the package lists know no linux-image-cloud-amd64" >&2
  echo "hint: put a Debian kernel package (linux-image-*-cloud-amd64_*.deb) into $folder" >&2
  exit 1
fi
# apt drops privileges for downloads and needs a folder that everybody may write to.
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
chmod 777 "$temporary"
if ! (cd "$temporary" && apt-get download -q "$package" >/dev/null 2>"$temporary/log"); then
  tail -n 3 "$temporary/log" >&2
  echo "error: the kernel package $package could not be downloaded" >&2
  echo "hint: is a Debian mirror reachable?" >&2
  exit 1
fi
mv "$temporary"/linux-image-*.deb "$folder/"
