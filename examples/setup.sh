# What the examples have in common; they read it first. A temporary folder that is gone at the end, a service in it that
# is ended by its process id, and the few words below. Nothing outside of that folder is written.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
if [ ! -f dist/cli/bin.js ]; then
  echo "there is no build: run \`npm run build\` first" >&2
  exit 1
fi

folder=$(mktemp -d)
export folder
# State, socket and configuration of the service: in there, and not the user's own.
export XDG_RUNTIME_DIR="$folder/run" XDG_STATE_HOME="$folder/state" XDG_CONFIG_HOME="$folder/config" NO_COLOR=1
unset "${!VRAM_@}"
# Emulated also where there is a GPU: an example must not touch one.
export VRAM_BACKEND=emulated
mkdir -m 700 "$XDG_RUNTIME_DIR"
service=""
finish() {
  if [ -n "$service" ]; then crash; fi
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n# %s\n' "$*"; }

# The last line of an example: it is reached only if every step found what it expected.
verdict() { printf '\n✓ %s\n  On the EMULATED device: no GPU was used, and nothing here is evidence about one.\n' "$*"; }

fail() {
  echo "$*" >&2
  exit 1
}

# vram ARGS…: shows the command, without the temporary folder, and runs it.
vram() {
  printf '$ vram %s\n' "${*//"$folder/"/}"
  node dist/cli/bin.js "$@"
}

# expect CODE COMMAND…: the command must end with this exit code.
expect() {
  local code=0 wanted=$1
  shift
  "$@" || code=$?
  if [ "$code" -ne "$wanted" ]; then fail "expected exit code $wanted, found $code"; fi
  echo "(exit $code)"
}

# field NAME.NAME…: a field of the JSON document on standard input.
field() { node -e '
  const whole = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
  console.log(String(process.argv[1].split(".").reduce((value, name) => value[name], whole)));
' "$1"; }

# start COMMAND…: starts a service, and waits until it says that it can be reached: a line with its socket, and one on
# what the backend is worth as evidence.
start() {
  rm -f "$folder/told" "$folder/said"
  mkfifo "$folder/told" "$folder/said"
  "$@" <"$folder/told" >"$folder/said" 2>>"$folder/errors" &
  service=$!
  exec 9>"$folder/told" 8<"$folder/said"
  local line
  for _ in 1 2; do
    read -r line <&8 || { cat "$folder/errors" >&2 && fail "the service did not start"; }
    printf '%s\n' "${line//"$folder/"/}"
  done
}

# serve OPTIONS…: the command that ships.
serve() {
  printf '$ vram serve%s\n' "${*:+ ${*//"$folder/"/}}"
  start node dist/cli/bin.js serve --quiet "$@"
}

# serve_open OPTIONS…: the same service with a way into its emulated memory (service-with-a-way-in.mjs).
serve_open() {
  printf '$ node examples/service-with-a-way-in.mjs%s\n' "${*:+ ${*//"$folder/"/}}"
  start node examples/service-with-a-way-in.mjs --quiet "$@"
}

# flip NAME OFFSET BIT: flips one bit of a shard in VRAM, behind the service's back; returns when that is done.
flip() {
  echo "$*" >&9
  local answer
  read -r answer <&8
  echo "$answer"
}

# What is wanted is sealed again after a start, or when a device is let go on; returns when all of it is there.
until_resident() {
  until node dist/cli/bin.js ps --json 2>/dev/null | node -e '
    const { shards, missing } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
    process.exit(missing.length === 0 && shards.every(({ sealed }) => sealed) ? 0 : 1);
  '; do kill -0 "$service"; done
}

# stop: tells the service to end, which it must in good order. crash: kills it. Both by its process id.
stop() {
  kill -TERM "$service"
  ended
}
crash() {
  kill -KILL "$service" 2>/dev/null || true
  wait "$service" 2>/dev/null || true
  service=""
  exec 9>&- 8<&-
}

# ended: waits for a service that was told to end.
ended() {
  wait "$service" || fail "the service ended with exit code $?"
  service=""
  exec 9>&- 8<&-
}
