#!/bin/sh
# A global load balancer's check of a site: 0 when its edge serves and its pools and upstreams answer, else 1, with what
# is missing on standard error. For balancers that run a program a site (external-check in haproxy, a monitor in BIND or
# PowerDNS); those that ask by themselves expect 200 of GET /health/endtoend.
# Usage: site-check.sh https://eu.registry.example.com [options of curl]
set -u

site=$1
shift
answer=$(curl --silent --show-error --max-time 5 --write-out '\n%{http_code}' "$@" "$site/health/endtoend") || exit 1
if [ "${answer##*
}" = 200 ]; then
    exit 0
fi
# The names of the services that are false.
printf '%s\n' "$answer" | grep -o '"[^"]*": *false' >&2
exit 1
