#!/bin/sh
# Installs what the browser tests need, Debian's chromium and chromium-driver, unless both are there.
# Never fails: where it cannot install, it says so and the tests that need a browser are skipped (failed if CI is set).
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "no apt-get to install chromium with: the browser tests need chromium and chromedriver"
    exit 0
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends chromium chromium-driver; } \
    >/dev/null 2>&1; then
    echo "chromium cannot be installed (no rights, or no package): the browser tests need chromium and chromedriver"
fi
exit 0
