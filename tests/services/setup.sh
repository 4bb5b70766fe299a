#!/bin/sh
# Installs what the tests need beside Python: idempotent, and quick when all of it is there already.
# Without root it says what is missing and goes on; the tests that need it are then skipped by name.
set -eu
cd "$(dirname "$0")/../.."

missing=""
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v firefox-esr >/dev/null 2>&1 || missing="$missing firefox-esr"
command -v curl >/dev/null 2>&1 || missing="$missing curl"
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
command -v nginx >/dev/null 2>&1 || missing="$missing nginx"
command -v caddy >/dev/null 2>&1 || missing="$missing caddy"
command -v haproxy >/dev/null 2>&1 || missing="$missing haproxy"
command -v tinyproxy >/dev/null 2>&1 || missing="$missing tinyproxy"
command -v wrk >/dev/null 2>&1 || missing="$missing wrk"
command -v prometheus >/dev/null 2>&1 || missing="$missing prometheus"
command -v prometheus-alertmanager >/dev/null 2>&1 || missing="$missing prometheus-alertmanager"
command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"

if [ -n "$missing" ]; then
    if [ "$(id -u)" -eq 0 ]; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        echo "setup: not root; please install these Debian packages for the full tests:$missing" >&2
    fi
fi

# npm comes with the node of .venv, which is newer than Debian's. All at once: each mostly waits for files.
PATH="$(cd "${VENV:-.venv}" && pwd)/bin:$PATH"
installing=""
for of in tests/browser tests/clients tests/services tests/stacks; do
    if [ ! $of/node_modules/.package-lock.json -nt $of/package-lock.json ]; then
        (npm ci --prefix $of --silent --no-audit --no-fund && touch $of/node_modules/.package-lock.json) &
        installing="$installing $!"
    fi
done
for npm in $installing; do
    wait "$npm"
done
