#!/usr/bin/env bash
# A model in several files, as large models come: sealed as one set, all of it or nothing. When bytes change in VRAM, the
# answer is not "the model is broken" but which file, which bytes, and which tensors. First with the service, which keeps
# a set on one device; then with the library, which spreads one over two. Emulated devices, temporary folder.
#
#     npm run build && examples/04-sharded-model.sh
. "$(dirname -- "$0")/setup.sh"

say "a model in three files, with the index that names them"
node scripts/make-model.mjs "$folder/whole.safetensors" --mib 4
mkdir "$folder/llama"
# Cuts the file at tensor boundaries into three that hold about the same, and writes the index that Hugging Face has.
node - "$folder/whole.safetensors" "$folder/llama" <<'JS'
const { readFileSync, writeFileSync } = require("node:fs");
const [, , whole, folder] = process.argv;
const bytes = readFileSync(whole);
const start = 8 + Number(bytes.readBigUInt64LE(0));
const { __metadata__, ...tensors } = JSON.parse(bytes.subarray(8, start));
const files = [1, 2, 3].map((number) => ({ name: `model-0000${number}-of-00003.safetensors`, header: {}, parts: [], size: 0 }));
for (const [name, { data_offsets: [from, to], ...rest }] of Object.entries(tensors)) {
  const file = files[Math.floor((from / (bytes.length - start)) * 3)];
  file.header[name] = { ...rest, data_offsets: [file.size, (file.size += to - from)] };
  file.parts.push(bytes.subarray(start + from, start + to));
}
for (const { name, header, parts } of files) {
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(`${folder}/${name}`, Buffer.concat([length, json, ...parts]));
}
const map = files.flatMap(({ name, header }) => Object.keys(header).map((tensor) => [tensor, name]));
writeFileSync(`${folder}/model.safetensors.index.json`, JSON.stringify({ weight_map: Object.fromEntries(map) }));
JS
(cd "$folder" && ls llama)

say "would it fit? only headers are read for that, and nothing is moved"
serve_open
expect 0 vram plan "$folder/llama"

say "a directory stands for the files of its index; they are sealed as one set"
vram seal --wait "$folder/llama"
vram ps
expect 0 vram verify llama

say "what may be said about one of its files"
second=llama/model-00002-of-00003.safetensors
vram show "$second"

say "one bit flips in the second file, in VRAM; the other two are still what was sealed"
flip "$second" 300000 5
expect 3 vram verify llama

stop

say "the library spreads a set over two devices; a mismatch stops the one it was found on"
node examples/two-devices.mjs "$folder/llama"

verdict "a flipped bit in a set of three files was named by file, range, block and tensor"
