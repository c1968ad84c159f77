#!/usr/bin/env bash
# Runs `pierhead check` on every example, and on what becomes of haproxy.cfg, beside stand-ins for the files that the
# examples name.
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
        -keyout "$scratch/tls/$name.key" -out "$scratch/tls/$name.crt" 2>/dev/null
done
for name in docker.io registry.redhat.io redis; do
    echo stand-in >"$scratch/secrets/$name"
done
printf 'example:$2y$05$%053d\n' 0 >"$scratch/users"

"$pierhead" convert haproxy haproxy.cfg >"$scratch/converted.yaml" 2>/dev/null
for example in *.yaml converted.yaml; do
    HOME=${HOME:-/} "$pierhead" check --config "$scratch/$example"
done
