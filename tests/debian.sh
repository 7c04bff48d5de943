#!/bin/sh
# Install the Debian packages that the real test servers, R and the browser come from. Quick when all are there.
# Without root or sudo: name the exact command and go on (tests that need a package then say so).
set -eu
WANTED="${*:-mariadb-server mariadb-client chromium fonts-dejavu-core zstd r-base-core r-cran-rmysql r-cran-irkernel r-cran-jsonlite r-cran-curl podman runc catatonit debootstrap xfsprogs}"
not_there() {
  for package in $WANTED; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || printf ' %s' "$package"
  done
}
missing=$(not_there)
[ -z "$missing" ] && exit 0
command="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then run=""; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then run="sudo -n"; else
  echo "These Debian packages are missing and this user may not install them; run: sudo $command" >&2
  exit 0
fi
# Another make on this machine may install them just now.
if command -v flock >/dev/null; then
  mkdir -p .cache
  exec 9>.cache/debian.lock
  flock 9
  [ -z "$(not_there)" ] && exit 0
fi
echo "Installing Debian packages:$missing"
# A fresh Debian service must not start by itself: the tests start their own, on free ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap '$run rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | $run tee "$policy" >/dev/null && $run chmod +x "$policy"
fi
# Through `env`: sudo drops the variables of who calls it.
apt() { $run env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 "$@" 9>&-; }
# A fresh machine updates itself, and apt does not wait for another one's lists; nor for a mirror that changes just now.
for pause in 0 10 30 60 120; do
  sleep "$pause"
  # shellcheck disable=SC2086
  if apt update && apt install -y --no-install-recommends $missing >/dev/null; then exit 0; fi
done
exit 1
