#!/bin/sh
# Install the Debian packages that the real test servers, R and the browser come from. Quick when all are there.
# Without root or sudo: name the exact command and go on (tests that need a package then say so).
set -eu
WANTED="${*:-mariadb-server mariadb-client chromium fonts-dejavu-core zstd r-base-core r-cran-rmysql r-cran-irkernel r-cran-jsonlite r-cran-curl podman runc catatonit debootstrap xfsprogs}"
missing=""
for package in $WANTED; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
command="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then run=""; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then run="sudo -n"; else
  echo "These Debian packages are missing and this user may not install them; run: sudo $command" >&2
  exit 0
fi
echo "Installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# A fresh Debian service must not start by itself: the tests start their own, on free ports.
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' | $run tee "$policy" >/dev/null && $run chmod +x "$policy" && made=1; fi
$run apt-get update -qq && $run $command -qq >/dev/null
[ -z "$made" ] || $run rm -f "$policy"
