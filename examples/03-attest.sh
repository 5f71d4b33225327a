#!/usr/bin/env bash
# A statement that a stranger can check. Somebody who answers for a model asks for one with a nonce that nobody could know
# before; whoever audits checks it elsewhere, with a public key that came another way and a file of their own. A copy of
# the file with one byte changed, and an old statement shown again, are refused. Emulated device, temporary folder.
#
#     npm run build && examples/03-attest.sh      # needs openssl
. "$(dirname -- "$0")/setup.sh"

# What the auditor does; the service could be on another continent, or gone.
check() {
  vram attest check "$folder/statement.json" --pub "$folder/keys/statement.pub.pem" "$@"
}

say "the operator: a model is sealed, and the public keys are published once"
node scripts/make-model.mjs "$folder/model.safetensors" --mib 2
serve
vram seal --name model --wait "$folder/model.safetensors"
vram attest keys --out "$folder/keys"

say "the auditor chooses a nonce, the operator answers it"
nonce=$(openssl rand -hex 32)
vram attest model --nonce "$nonce" --out "$folder/statement.json"

say "the service ends: what follows needs none"
stop

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

verdict "the statement held for the model it is about, and for no other file, nonce or kind of device"
