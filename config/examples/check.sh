#!/usr/bin/env bash
# Runs `pierhead check` on every example, beside throw-away copies of the files that the examples name.
# Usage: config/examples/check.sh PIERHEAD
set -euo pipefail

pierhead=$(realpath "$1")
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cp ./*.yaml "$scratch"
mkdir "$scratch/tls" "$scratch/secrets"
for name in edge hub client site-ca; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj "/CN=$name.example.com" \
        -addext "subjectAltName=DNS:$name.example.com" \
        -keyout "$scratch/tls/$name.key" -out "$scratch/tls/$name.crt" 2>/dev/null
done
openssl rand -hex 16 | tee "$scratch/secrets/docker.io" >"$scratch/secrets/registry.redhat.io"
htpasswd -Bbn example "$(openssl rand -hex 16)" >"$scratch/users"

for example in "$scratch"/*.yaml; do
    HOME=${HOME:-/root} "$pierhead" check --config "$example"
done
