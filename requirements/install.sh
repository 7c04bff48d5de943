#!/bin/sh
# In a build: /opt/datamount with exactly what /requirements.txt pins, our wheel, and no tool to install more.
set -eu
python3 -m venv /opt/datamount
pip="/opt/datamount/bin/python -m pip --disable-pip-version-check"
$pip install --no-cache-dir --no-compile --require-hashes --no-deps --requirement /requirements.txt
$pip install --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl
$pip uninstall --yes --quiet pip setuptools wheel || $pip uninstall --yes --quiet pip
cd /opt/datamount/lib/python3*/site-packages
# What nothing here imports and would be half of the image: tests, headers, Arrow's server and its own S3, the web page
# of nbdime, and what AWS has beside S3 and its sign-in.
find . -depth -type d \( -name tests -o -name test \) \
  \( -path './numpy/*' -o -path './pyarrow/*' -o -path './tornado/*' -o -path './zmq/*' \) -exec rm -rf {} +
rm -rf pyarrow/include numpy/_core/include nbdime/webapp/static zstandard/_cffi*.so
rm -rf pyarrow/libarrow_flight* pyarrow/_flight* pyarrow/libarrow_python_flight* pyarrow/libarrow_s3* pyarrow/_s3fs*
for service in botocore/data/*/; do
  case $service in */s3/ | */sts/ | */sso/ | */sso-oidc/ | */signin/) ;; *) rm -rf "$service" ;; esac
done
cd /opt/datamount
# Byte code now: a root that cannot be written would compile anew at every start.
bin/python -m compileall -q -j 0 lib || true
