#!/usr/bin/env bash
# The audit log: what happened, in lines that hang together, so that a change to one of them shows. Here somebody who can
# write to the disk tries it on copies: another byte, a line less, the end cut off. Each is found and named. What the log
# cannot show by itself is that all of it was put back to an earlier state; a log checkpoint that was remembered elsewhere
# does. Emulated device, temporary folder.
#
#     npm run build && examples/06-audit-log.sh
. "$(dirname -- "$0")/setup.sh"
log="$XDG_STATE_HOME/vram-residency/audit"

# copy NAME: a copy of the log for somebody to work on; "$lines" are the lines in it.
copy() {
  cp -r "$log" "$folder/$1"
  lines="$folder/$1/000001.jsonl"
}
# audit NAME…: what an auditor does. The public key of the log came to him another way than the log.
audit() {
  vram audit verify --log "$folder/$1" --log-key "$key" "${@:2}"
}

say "something happens, and is on record"
node scripts/make-model.mjs "$folder/model.safetensors" --mib 1
serve
vram seal --name model --wait "$folder/model.safetensors"
vram lease model -- true
stop
# For programs a line is JSON, as it stands in the log; on a terminal `vram audit tail` prints sentences.
vram audit tail --lines 20 | grep -oE '^\$.*|"type":"[a-z_]+"'
key=$(node dist/cli/bin.js audit keys --json | field logKey)
echo "the key of this log: $key"

say "all of it is read: the chain of lines, their macs, and what was signed"
expect 0 vram audit verify

say "a proof that one line is in it, for somebody who has the key and no log"
seq=$(grep -m 1 '"type":"vram_sealed"' "$log/000001.jsonl" | field seq)
node dist/cli/bin.js audit prove "$seq" >"$folder/sealed.proof"
expect 0 vram audit prove --check "$folder/sealed.proof" --log-key "$key"

say "one byte of a line is another: it was somebody else who held the lease"
copy byte
sed -i 's/"holder":"true /"holder":"tr0e /' "$lines"
expect 3 audit byte

say "a line is removed: nobody ever held one"
copy line
sed -i '/"type":"lease_granted"/d' "$lines"
expect 3 audit line

say "the end is cut off: the service did not stop"
copy end
sed -i '$d' "$lines"
expect 3 audit end

say "more happens, and the auditor remembers how far the log is, on a machine of his own"
copy earlier
serve
vram evict --revoke model
stop
cp "$log/checkpoint" "$folder/remembered.checkpoint"
copy now
expect 0 audit now --since "$folder/remembered.checkpoint"

say "the whole log is put back to what it was: nothing in it is wrong, and it says what it cannot exclude"
expect 0 audit earlier

say "the log checkpoint that was remembered shows it"
expect 3 audit earlier --since "$folder/remembered.checkpoint"

verdict "another byte, a missing line and a cut end were found and named; a log put back, by what was remembered"
