# What a reader has before the first line of a page, as functions of one bash session. REPO, SESSION and NODE are given.
# Sourced by the script that docs-session.ts writes.

# `npx vram` and `npm run -s vram --` are `vram`; any other program of npm or npx is not run here.
npx() {
  if [ "$1" != vram ]; then echo "npx $1 is not run here" >&2; return 99; fi
  shift
  vram "$@"
}
npm() {
  case "$*" in
    "run -s vram -- "*) vram "${@:5}" ;;
    # From the repository: what is packed has to start by itself.
    pack) command npm pack "$REPO" --pack-destination "$PWD" --ignore-scripts --silent ;;
    *) echo "npm $* is not run here" >&2; return 99 ;;
  esac
}

# `vram serve` stays until the page ends, or until the page starts another one. Commands that follow something are told
# to end when they have said something.
vram() {
  case "$1 $2 $3" in
    "serve --help "*) command vram "$@" ;;
    serve*) serve "$@" ;;
    "audit tail -f" | "audit tail --follow") follow vram "$@" ;;
    *) command vram "$@" ;;
  esac
}

service=
serve() {
  stop_service || return
  exec {said}< <(exec vram "$@" 2>"$SESSION/serve.err")
  service=$!
  if IFS= read -r line <&"$said"; then
    printf '%s\n' "$line"
    # On any backend but cuda there is a second line, unless it speaks JSON.
    case " $* " in *" --json "*) ;; *) IFS= read -r line <&"$said" && printf '%s\n' "$line" ;; esac
    return 0
  fi
  cat "$SESSION/serve.err"
  wait "$service"
  local code=$?
  service=
  return "$code"
}

# Also where a page breaks off.
trap stop_service EXIT

stop_service() {
  local code=0
  if [ -n "$service" ]; then
    kill -TERM "$service" && wait "$service" || code=$?
    exec {said}<&-
  fi
  service=
  if [ "$code" -ne 0 ]; then cat "$SESSION/serve.err"; echo "the service ended with $code"; fi
  return "$code"
}

# follow PROGRAM ARGUMENT…: reads up to the first entry that it tells, and ends it.
follow() {
  local lines pid line code
  exec {lines}< <(exec "$@")
  pid=$!
  while IFS= read -r line <&"$lines"; do
    printf '%s\n' "$line"
    case "$line" in 'data: {"type"'* | "{"*) break ;; esac
  done
  kill -TERM "$pid"
  wait "$pid"
  code=$?
  exec {lines}<&-
  # Told to end: 130 of ours, 143 of a program that does not listen.
  [ "$code" -eq 130 ] || [ "$code" -eq 143 ]
}

# An answer that is a problem is exit 22, so that it cannot be overlooked.
curl() {
  case " $* " in
    *" -N "*) follow curl -sS --fail-with-body "$@" ;;
    *) command curl -sS --fail-with-body "$@" ;;
  esac
}

# What `npm run quickstart` shows when everything is installed and built.
quickstart() (
  unset VRAM_EMULATED_BYTES
  "$NODE" "$REPO/scripts/make-model.mjs" "$SESSION/tmp/model.safetensors" --mib 64 &&
    vram try --tamper --log-format text "$SESSION/tmp/model.safetensors"
)
