#!/usr/bin/env bash
# A service from its start to a flipped bit that is caught, in one go. Everything runs on the emulated device, in a
# temporary folder, and is gone at the end. Each step says what it expects and fails if it finds anything else.
#
#     npm run build && examples/01-walkthrough.sh
. "$(dirname -- "$0")/setup.sh"

say "two models in the safetensors format"
node scripts/make-model.mjs "$folder/small.safetensors" --mib 2
node scripts/make-model.mjs "$folder/large.safetensors" --mib 8
vram digest "$folder/small.safetensors"
node dist/cli/bin.js digest "$folder/small.safetensors" >"$folder/SUMS"

say "the service starts, and seals both; of one we say beforehand what it must be"
serve_open
vram seal --name small --sums "$folder/SUMS" --wait "$folder/small.safetensors"
vram seal --name large --wait "$folder/large.safetensors"
vram ps

say "it measures them where they lie"
vram verify --all

say "a program runs under a lease; meanwhile its model is not evicted"
export -f vram
expect 0 vram lease small -- bash -c 'echo "this program relies on $VRAM_NAME"; vram evict small || echo "(refused, exit $?)"'

say "one bit flips in VRAM, behind the service's back"
flip small 65536 3
expect 3 vram verify small
expect 5 vram lease large -- echo "this must not run"

say "the service is killed and starts again: its worker is still stopped, and nothing is sealed"
crash
serve_open
vram ps
expect 5 vram lease large -- echo "this must not run"

say "somebody found out why, and says so; what was wanted is sealed again from its source"
vram resume --reason "the walkthrough flipped that bit itself"
until_resident
vram ps
expect 0 vram verify --all

say "everything that happened is on record"
stop
vram audit verify

verdict "one flipped bit in VRAM was found, and stopped what relied on it until somebody gave a reason"
