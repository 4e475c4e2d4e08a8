#!/usr/bin/env bash
# Debian's Chromium and its driver, for the tests of the playground: installed where they are absent and we may.
set -euo pipefail

command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
[ "$(id -u)" -eq 0 ] || { echo "chromium or chromedriver is missing: apt-get install chromium chromium-driver" >&2; exit 2; }
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends chromium chromium-driver
