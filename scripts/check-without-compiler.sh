#!/usr/bin/env bash
# Proves that the install succeeds and a model trains and writes where no addon can be built: a copy of the checkout
# is installed with compilers hidden, and must say once that it runs on composed ops.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 tar cf - --null | tar xf - -C "$copy"
# The packages are the same; only the addon must be absent, so the installed tree is reused and the install step run alone.
ln -s "$PWD/node_modules" "$copy/node_modules"
cd "$copy"
CC=/nonexistent CXX=/nonexistent npm_config_nodedir=/nonexistent PATH="$(dirname "$(command -v node)"):/usr/bin:/bin" \
  node scripts/install.mjs > install.log 2>&1
grep -q 'the native addon was not built' install.log || { echo 'the install did not report the missing addon:'; cat install.log; exit 1; }
test ! -e build/Release/nift.node
npm run --silent build:ts
node test/without-addon.mjs
