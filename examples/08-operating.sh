#!/usr/bin/env bash
# What an operator does: a configuration, a restart, figures and an alert, a device that stops and is let go on, and an end
# in good order. Two emulated devices, temporary folder; docs/operating.md has the rest.
#
#     npm run build && examples/08-operating.sh      # takes promtool where it is there
. "$(dirname -- "$0")/setup.sh"

# What `curl --unix-socket` would do, without curl.
ask() { node -e '
  const [, socketPath, path] = process.argv;
  require("node:http").get({ socketPath, path }, (answer) => answer.pipe(process.stdout));
' "$XDG_RUNTIME_DIR/vram-residency/vram.sock" "$1"; }
# What a load balancer asks; and then an operator: why not?
ready() {
  printf 'GET /readyz: %s ' "$(ask /readyz)"
  ask /v1/ready | field reasons
}

say "the service is told what to do, and shows what is in force, and who said so"
mkdir -p "$XDG_CONFIG_HOME/vram-residency"
cat >"$XDG_CONFIG_HOME/vram-residency/config.toml" <<'TOML'
[emulated]
devices = 2
bytes = "64 MiB"
[verify]
maxAgeMs = "10 min"   # verifying settles for a measurement no older than this
[lease]
drainMs = "1 min"     # a stop waits so long for leases to be given back
TOML
vram config show | grep -E '^(emulated|verify|lease.drain|onMismatch)'

say "two models, one on each device; a device goes by its UUID, as ordinals may change"
node scripts/make-model.mjs "$folder/a.safetensors" --mib 1
node scripts/make-model.mjs "$folder/b.safetensors" --mib 2
serve_open
first=$(ask /v1/devices | field devices.0.uuid)
second=$(ask /v1/devices | field devices.1.uuid)
vram seal --name a --device "$first" --wait "$folder/a.safetensors"
vram seal --name b --device "$second" --wait "$folder/b.safetensors"
ready

say "it is killed, and starts again: what was resident is wanted, and is sealed again from its source"
crash
serve_open
until_resident
ready

say "one bit of b flips; a verification that settles for what was measured before cannot see it"
flip b 70000 1
expect 0 vram verify b

say "one that measures does, and the device of b stops: nothing is sealed there, while the other goes on"
expect 3 vram verify --max-age 0 b
ready
expect 5 vram seal --name c --device "$second" --wait "$folder/a.safetensors"
expect 0 vram verify --max-age 0 a

say "that is a figure, and an alert of docs/alerts.yml"
ask /metrics | grep '^vram_residency_worker_stopped' | tee "$folder/figures"
grep -A 1 'alert: VramWorkerStopped' docs/alerts.yml
# Prometheus' own tool says whether it fires: the figures of this service, and the rules as they are.
cat >"$folder/alert.test.yml" <<YAML
rule_files: ["$PWD/docs/alerts.yml"]
tests:
  - input_series:
$(sed -E "s/^(.*) ([01])$/      - { series: '\1', values: '\2 \2' }/" "$folder/figures")
    promql_expr_test:
      - expr: count(ALERTS{alertname="VramWorkerStopped", alertstate="firing", device="$second"})
        eval_time: 1m
        exp_samples: [{ labels: "{}", value: 1 }]
      - expr: count(ALERTS{alertname="VramWorkerStopped"})
        eval_time: 1m
        exp_samples: [{ labels: "{}", value: 1 }]
YAML
if command -v promtool >/dev/null; then
  promtool test rules "$folder/alert.test.yml"
  echo "it fires for the second device, and for no other"
else
  echo "(no promtool here: whether it fires was not tried)"
fi

say "the memory was tested, and the device is let go on, with the reason; b is sealed again"
vram resume --reason "memory test clean" --device "$second"
until_resident
ready

say "the service is told to end while a program holds a lease: it waits for it, and takes nothing new"
mkfifo "$folder/begun" "$folder/finish"
node dist/cli/bin.js lease a -- bash -c 'echo "at work" >"$folder/begun"; read -r _ <"$folder/finish"; echo "the program has ended by itself"' &
program=$!
cat "$folder/begun"
kill -TERM "$service"
until ask /v1/ready 2>/dev/null | grep -q '"state":"stopping"'; do kill -0 "$service"; done
expect 1 vram seal --name c --wait "$folder/a.safetensors"
echo >"$folder/finish"
wait "$program"
ended

say "everything was zeroed and freed, and is on record"
node dist/cli/bin.js audit tail --lines 100 --json |
  grep -oE '"type":"(worker_|lease_released|vram_deallocated|service_stopped)[a-z]*"|"(zeroed|reason)":[^,}]*'
expect 0 vram audit verify

verdict "one device stopped and the other went on; a reason let it go on, and the end was in good order"
