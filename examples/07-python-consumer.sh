#!/usr/bin/env bash
# A program in Python reads sealed weights where they lie: nothing is copied, so a byte that changes in VRAM changes under
# its eyes, and it cannot know. The service can: it measures, and tells whoever holds a lease that it vouches no more.
# Emulated device, temporary folder.
#
#     npm run build && examples/07-python-consumer.sh      # needs python3; takes NumPy where it is there
. "$(dirname -- "$0")/setup.sh"

say "a model is sealed"
node scripts/make-model.mjs "$folder/model.safetensors" --mib 2
serve_open
vram seal --name model --wait "$folder/model.safetensors"
digest="fsverity:$(node dist/cli/bin.js show --json model | field shards.0.digest)"

say "a program attaches, says which digest it expects, and is handed the memory under a lease"
mkfifo "$folder/consumer"
# -B: no compiled files are left behind.
PYTHONPATH=clients/python python3 -B examples/consumer.py model "$digest" >"$folder/consumer" &
consumer=$!
exec 7<"$folder/consumer"
while read -r line <&7; do
  echo "$line"
  case $line in
  model.norm.weight*) offset=${line##* at } ;;
  "at work"*) break ;;
  esac
done

say "who has it now is known, and it is not evicted under him"
vram show model | grep -E 'exports|leases'
expect 1 vram evict model

say "one bit of that weight flips in VRAM; nobody has looked yet"
flip model "$offset" 6

say "the next verification finds it; the lease is revoked, and the program is told"
expect 3 vram verify model
cat <&7
wait "$consumer" || fail "the program was not told that its lease is unreliable (exit $?)"
echo "the program has ended"
stop

say "all of it is on record"
node dist/cli/bin.js audit tail --lines 30 --json | grep -oE '"type":"(shard_exported|export_ended|lease_[a-z]+|seal_verification_failed|worker_stopped)"'

verdict "the program read sealed bytes without a copy, saw one of them change, and was told not to rely on them"
