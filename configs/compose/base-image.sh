#!/usr/bin/env bash
# Makes a base image out of packages that are installed on this Debian machine, for machines that
# reach no registry: Python for nodes, and Mosquitto. Seconds, no network, no root beyond what the
# engine asks for. Usage: base-image.sh [TAG]
set -euo pipefail
readonly TAG=${1:-eightfold-base}
readonly WANTED=(python3 mosquitto dash coreutils grep libstdc++6 base-files base-passwd libc-bin)
# They are asked for by scripts that install packages, and by nothing that runs later.
readonly NOT_NEEDED='^(perl|debconf|adduser|passwd|lsb-base|sysvinit)'

fail() {
  echo "base-image: error: $*" >&2
  exit 1
}

command -v dpkg-query >/dev/null && command -v apt-cache >/dev/null ||
  fail "this is no Debian; give another base with --build-arg BASE=IMAGE"
for package in "${WANTED[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    fail "$package is not installed; run: apt-get install ${WANTED[*]}"
done
docker info >/dev/null 2>&1 || fail "no Docker engine answers; see: docker info"

mapfile -t packages < <(
  apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts \
    --no-breaks --no-replaces --no-enhances "${WANTED[@]}" |
    grep '^[a-z0-9]' | grep -vE "$NOT_NEEDED" | sort -u
)
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
# Where /bin is a link to /usr/bin, an archive that is unpacked in order must say /usr/bin.
# Names that only stand for others have no files, and dpkg-query fails for them.
{ dpkg-query -L "${packages[@]}" 2>/dev/null || true; } |
  grep -vE '^/usr/share/(doc|man|locale|info|lintian|bash-completion|i18n|zoneinfo)|diverted|diverts' |
  if [ -L /bin ]; then sed -E 's,^/(bin|sbin|lib[0-9]*)/,/usr/\1/,'; else cat; fi |
  sed -E 's,^/,,' | grep -vE '^\.?$' | sort -u >"$room/files"
# Users are those of every Debian, not those of this machine.
tar --create --file "$room/base.tar" --directory / --no-recursion --files-from "$room/files" \
  --transform 's,^usr/share/base-passwd/\(passwd\|group\)\.master$,etc/\1,' \
  --owner root --group root --ignore-failed-read --warning no-failed-read
docker import --change 'CMD ["python3"]' --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin' \
  "$room/base.tar" "$TAG" >/dev/null
echo "$TAG: ${#packages[@]} packages, $(du -m "$room/base.tar" | cut -f1) MiB"
