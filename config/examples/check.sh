#!/usr/bin/env bash
# Runs `pierhead check` on every example, and on what becomes of haproxy.cfg, and `pierhead-origin check` on those of the
# origin, beside stand-ins for the files that the examples name.
# Usage: config/examples/check.sh PIERHEAD PIERHEAD-ORIGIN
set -euo pipefail

pierhead=$(realpath "$1")
origin=$(realpath "$2")
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cp ./*.yaml "$scratch"
mkdir "$scratch/tls" "$scratch/secrets"
for name in edge origin hub client site-ca; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj "/CN=$name.example.com" \
        -keyout "$scratch/tls/$name.key" -out "$scratch/tls/$name.crt" 2>/dev/null
done
for name in docker.io mirror registry.redhat.io redis s3 database; do
    echo stand-in >"$scratch/secrets/$name"
done
printf 'example:$2y$05$%053d\n' 0 >"$scratch/users"

"$pierhead" convert haproxy haproxy.cfg >"$scratch/converted.yaml" 2>/dev/null
for example in *.yaml converted.yaml; do
    case "$example" in
    origin*) program=$origin ;;
    *) program=$pierhead ;;
    esac
    HOME=${HOME:-/} "$program" check --config "$scratch/$example"
done
