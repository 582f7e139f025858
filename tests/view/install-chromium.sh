#!/usr/bin/env bash
# Chromium with apt-get, if there is none: what `make test-browser` drives. Playwright's driver comes with the extra dev.
set -euo pipefail
if command -v chromium > /dev/null; then exit 0; fi
[ "$(id -u)" = 0 ] || { echo "$0: must run as root (or install chromium by other means)" >&2; exit 1; }
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium fonts-dejavu-core
