#!/usr/bin/env bash
# A service from its start to a flipped bit that is caught, in one go. Everything runs on the emulated device, in a
# temporary folder, and is gone at the end. Each step says what it expects and fails if it finds anything else.
#
#     npm run build && examples/01-walkthrough.sh
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
export XDG_RUNTIME_DIR="$folder/run" XDG_STATE_HOME="$folder/state" XDG_CONFIG_HOME="$folder/config" NO_COLOR=1
mkdir -m 700 "$XDG_RUNTIME_DIR"
service=""
finish() {
  if [ -n "$service" ]; then kill -KILL "$service" 2>/dev/null || true; fi
  rm -rf "$folder"
}
trap finish EXIT

say() { printf '\n# %s\n' "$*"; }

# vram ARGS…: shows the command, and runs it.
vram() {
  printf '$ vram %s\n' "$*"
  node dist/cli/bin.js "$@"
}

# expect CODE COMMAND…: the command must end with this exit code.
expect() {
  local code=0 wanted=$1
  shift
  "$@" || code=$?
  if [ "$code" -ne "$wanted" ]; then
    echo "expected exit code $wanted, found $code" >&2
    exit 1
  fi
  echo "(exit $code)"
}

# Starts the service, and waits until it says that it can be reached.
serve() {
  printf '$ vram serve\n'
  mkfifo "$folder/said"
  node examples/01-tampered-service.mjs --quiet >"$folder/said" 2>"$folder/errors" &
  service=$!
  head -n 2 "$folder/said" || true
  rm "$folder/said"
}

say "two models in the safetensors format"
node scripts/make-model.mjs "$folder/small.safetensors" --mib 2
node scripts/make-model.mjs "$folder/large.safetensors" --mib 8
vram digest "$folder/small.safetensors"
node dist/cli/bin.js digest "$folder/small.safetensors" >"$folder/SUMS"

say "the service starts, and seals both; of one we say beforehand what it must be"
serve
vram seal --name small --sums "$folder/SUMS" --wait "$folder/small.safetensors"
vram seal --name large --wait "$folder/large.safetensors"
vram ps

say "it measures them where they lie"
vram verify --all

say "a program runs under a lease; meanwhile its model is not evicted"
export -f vram
expect 0 vram lease small -- bash -c 'echo "this program relies on $VRAM_NAME"; vram evict small || echo "(refused, exit $?)"'

say "one bit flips in VRAM, behind the service's back"
kill -USR2 "$service"
expect 3 vram verify small
expect 5 vram lease large -- echo "this must not run"

say "the service is killed and starts again: its worker is still stopped, and nothing is sealed"
kill -KILL "$service"
wait "$service" 2>/dev/null || true
serve
vram ps
expect 5 vram lease large -- echo "this must not run"

say "somebody found out why, and says so; what was wanted is sealed again from its source"
vram resume --reason "the walkthrough flipped that bit itself"
until node dist/cli/bin.js ps --json | node -e '
  const { missing } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
  process.exit(missing.length);
'; do :; done
vram ps
expect 0 vram verify --all

say "everything that happened is on record"
kill -TERM "$service"
wait "$service" || { echo "the service ended with exit code $?" >&2; exit 1; }
service=""
vram audit verify
