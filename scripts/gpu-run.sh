#!/usr/bin/env bash
# Everything that only a GPU can show, in one visit: bash scripts/gpu-run.sh OUTDIR [--only 1,5] [--quick] [--commit SHA]
# Writes OUTDIR/results.json and OUTDIR/log.txt, and prints a table. docs/gpu-results/README.md says how to get here.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$PWD
cd "$root"
# A machine without Node.js was given a bundle of it.
[ ! -x .gpu/bin/node ] || PATH="$PWD/.gpu/bin:$PATH"
if [ -f .gpu/unpack.sh ] && { ! command -v node >/dev/null || [ ! -d node_modules/koffi ]; }; then
  set +e
  . .gpu/unpack.sh
  set -e
fi
[ -f dist/index.js ] || { echo "dist is missing: npm run build makes it" >&2; exit 2; }
# Containers may be given the driver's libraries without the loader being told.
if [ -e /usr/local/nvidia/lib64/libcuda.so.1 ] && [[ ":${LD_LIBRARY_PATH:-}:" != *:/usr/local/nvidia/lib64:* ]]; then
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/nvidia/lib64"
fi
cd "$here"
exec node "$root/scripts/gpu/run.mjs" "$@"
