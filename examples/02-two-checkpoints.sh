#!/usr/bin/env bash
# Which checkpoint is this engine really using? Two models with the same tensors, types and shapes; in one of them a norm
# is all zeros. By their layout they are equal, and a weight daemon that goes by names and shapes serves one for the
# other. Here content decides: attaching to B where A is expected is refused. Emulated device, temporary folder.
#
#     npm run build && examples/02-two-checkpoints.sh      # needs python3
. "$(dirname -- "$0")/setup.sh"

# What an engine would do: attach, and print what it got.
attach() {
  printf '$ attach %s\n' "$*"
  python3 clients/python/vram_residency.py "$@"
}
# layout FILE: names, types and shapes of its tensors.
layout() { python3 clients/python/vram_residency.py model --json | python3 -c '
import json, sys
print([(t["name"], t["dtype"], t["shape"]) for t in json.load(sys.stdin)["tensors"]])'; }

say "checkpoint A, and B: the same but for one norm, which is all zeros"
node scripts/make-model.mjs "$folder/a.safetensors" --mib 2
python3 - "$folder/a.safetensors" "$folder/b.safetensors" <<'PY'
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
(length,) = struct.unpack("<Q", data[:8])
header = json.loads(data[8 : 8 + length])
begin, end = header["model.norm.weight"]["data_offsets"]
data[8 + length + begin : 8 + length + end] = bytes(end - begin)
open(sys.argv[2], "wb").write(data)
print(f"model.norm.weight of B: {end - begin} zero bytes at {8 + length + begin}")
PY
digest_a=$(node dist/cli/bin.js digest --json "$folder/a.safetensors" | field files.0.digest)

serve

say "A is sealed as \"model\"; an engine that expects A attaches to it"
vram seal --name model --wait "$folder/a.safetensors"
expect 0 attach model --expect "$digest_a"
layout_a=$(layout)

say "somebody seals B under the same name: by its layout it is the same model"
vram evict model
vram seal --name model --wait "$folder/b.safetensors"
layout_b=$(layout)
if [ "$layout_a" = "$layout_b" ]; then echo "names, types and shapes are equal"; else fail "the layouts differ"; fi

say "the engine that expects A is refused: it is handed nothing"
expect 3 attach model --expect "$digest_a"

say "who attached, and who was refused, is on record"
stop
node dist/cli/bin.js audit tail -n 100 --json | grep -oE '"type":"(shard_exported|export_ended|request_refused)"' | sort | uniq -c

verdict "equal by names, types and shapes, told apart by content: who expects A is not handed B"
