#!/bin/sh
# Compare the stand-in with a real API server: kube-apiserver and etcd, built from their Go modules into FOLDER (ten
# minutes and two gigabytes the first time; needs Go), run on 127.0.0.1 with throw-away data.
set -eu
FOLDER="${1:?usage: tests/kube/real.sh FOLDER [PYTHON]}"
PYTHON="${2:-.venv/bin/python}"
VERSION=31.4
PORT=26443
ETCD=23790
mkdir -p "$FOLDER/api" "$FOLDER/etcd"
FOLDER="$(cd "$FOLDER" && pwd)"

if [ ! -x "$FOLDER/kube-apiserver" ]; then
  cd "$FOLDER/api"
  cat >main.go <<'GO'
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
GO
  {
    printf 'module comparison\n\ngo 1.23\n\nrequire k8s.io/kubernetes v1.%s\n\nreplace (\n' "$VERSION"
    # Kubernetes names its own parts by folder, which a module that requires it cannot.
    for part in api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider \
      cluster-bootstrap code-generator component-base component-helpers controller-manager cri-api cri-client \
      csi-translation-lib dynamic-resource-allocation endpointslice kms kube-aggregator kube-controller-manager \
      kube-proxy kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver; do
      printf '\tk8s.io/%s => k8s.io/%s v0.%s\n' "$part" "$part" "$VERSION"
    done
    printf ')\n'
  } >go.mod
  go mod tidy
  CGO_ENABLED=0 go build -o "$FOLDER/kube-apiserver" .
  cd - >/dev/null
fi
if [ ! -x "$FOLDER/etcd-server" ]; then
  cd "$FOLDER/etcd"
  printf 'module comparison\n\ngo 1.23\n' >go.mod
  go get go.etcd.io/etcd/server/v3@v3.5.17
  CGO_ENABLED=0 go build -o "$FOLDER/etcd-server" go.etcd.io/etcd/server/v3
  cd - >/dev/null
fi

run="$(mktemp -d)"
trap 'kill $servers 2>/dev/null; rm -rf "$run"' EXIT
servers=""
openssl genrsa -out "$run/key" 2048 2>/dev/null
openssl rsa -in "$run/key" -pubout -out "$run/key.pub" 2>/dev/null
token="$(openssl rand -hex 16)"
echo "$token,admin,1,\"system:masters\"" >"$run/tokens"
"$FOLDER/etcd-server" --data-dir "$run/etcd" --listen-client-urls "http://127.0.0.1:$ETCD" \
  --advertise-client-urls "http://127.0.0.1:$ETCD" --listen-peer-urls http://127.0.0.1:0 >"$run/etcd.log" 2>&1 &
servers="$!"
# No ServiceAccount admission: it waits for a controller that makes the accounts.
"$FOLDER/kube-apiserver" --etcd-servers="http://127.0.0.1:$ETCD" --cert-dir="$run/certs" --secure-port="$PORT" \
  --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --token-auth-file="$run/tokens" --authorization-mode=RBAC \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$run/key.pub" \
  --service-account-signing-key-file="$run/key" --service-cluster-ip-range=10.0.0.0/24 \
  --disable-admission-plugins=ServiceAccount >"$run/api.log" 2>&1 &
servers="$servers $!"
tries=0
until curl -sfk -H "Authorization: Bearer $token" "https://127.0.0.1:$PORT/readyz" >/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt 60 ] || { tail -n 5 "$run/etcd.log" "$run/api.log" >&2; exit 1; }
  sleep 2
done
"$PYTHON" -m tests.kube.compare "https://127.0.0.1:$PORT" --token "$token"
