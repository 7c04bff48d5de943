#!/bin/sh
# Unpack Oracle's MySQL into FOLDER, for `make test-mysql`: the packages of Debian unstable (no other Debian has it),
# fetched by an apt with folders of its own and run from there, so that nothing of this system changes. About 65 MB.
set -eu
FOLDER="${1:?usage: tests/mysql.sh FOLDER}"
[ -x "$FOLDER/usr/sbin/mysqld" ] && exit 0
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/$' | head -n 1)"
[ -n "$mirror" ] || { echo "tests/mysql.sh: this system's apt knows no mirror of Debian" >&2; exit 1; }
mkdir -p "$FOLDER"
own="$(mktemp -d)"
trap 'rm -rf "$own"' EXIT
mkdir -p "$own/etc/apt.conf.d" "$own/etc/preferences.d" "$own/etc/trusted.gpg.d" "$own/lists/partial" "$own/cache/archives/partial"
: >"$own/status"
cat >"$own/etc/sid.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: sid
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
cat >"$own/apt.conf" <<CONF
Dir::Etc "$own/etc";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$own/etc";
Dir::State "$own";
Dir::State::Lists "$own/lists";
Dir::State::status "$own/status";
Dir::Cache "$own/cache";
APT::Sandbox::User "";
// A mirror may lag behind for days; what it signs is checked all the same.
Acquire::Check-Valid-Until "false";
CONF
export APT_CONFIG="$own/apt.conf"
apt-get update -qq
apt-get install -qq --yes --no-install-recommends --download-only mysql-server-core mysql-client-core
for package in "$own"/cache/archives/*.deb; do dpkg-deb -x "$package" "$FOLDER"; done
