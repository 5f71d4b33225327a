#!/usr/bin/env bash
# A statement that a stranger can check. Somebody who answers for a model asks for one with a nonce that nobody could know
# before; whoever audits checks it elsewhere, with a public key that came another way and a file of their own. A copy of
# the file with one byte changed, and an old statement shown again, are refused. Emulated device, temporary folder.
#
#     npm run build && examples/03-attest.sh      # needs openssl
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
vram() {
  printf '$ vram %s\n' "${*//"$folder/"/}"
  node dist/cli/bin.js "$@"
}
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
# What the auditor does; the service could be on another continent, or gone.
check() {
  vram attest check "$folder/statement.json" --pub "$folder/keys/statement.pub.pem" "$@"
}

say "the operator: a model is sealed, and the public keys are published once"
node scripts/make-model.mjs "$folder/model.safetensors" --mib 2
mkfifo "$folder/said"
node dist/cli/bin.js serve --quiet >"$folder/said" &
service=$!
head -n 2 "$folder/said"
vram seal --name model --wait "$folder/model.safetensors"
vram attest keys --out "$folder/keys"

say "the auditor chooses a nonce, the operator answers it"
nonce=$(openssl rand -hex 32)
vram attest model --nonce "$nonce" --out "$folder/statement.json"

say "the service ends: what follows needs none"
kill -TERM "$service"
wait "$service"
service=""

say "the auditor holds the statement against a file of his own"
accept=(--accept-backend emulated)
expect 0 check --model "$folder/model.safetensors" --nonce "$nonce" --log-key "$folder/keys/log.vkey" "${accept[@]}"

say "an emulated device does not pass for a GPU"
expect 5 check --model "$folder/model.safetensors" --nonce "$nonce"

say "one byte of the auditor's file is another"
cp "$folder/model.safetensors" "$folder/other.safetensors"
printf '\377' | dd of="$folder/other.safetensors" bs=1 seek=100000 conv=notrunc status=none
expect 3 check --model "$folder/other.safetensors" --nonce "$nonce" "${accept[@]}"

say "the same statement is shown again, to somebody with another nonce"
expect 3 check --model "$folder/model.safetensors" --nonce "$(openssl rand -hex 32)" "${accept[@]}"
