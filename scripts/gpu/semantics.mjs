/** Step 2: what memory is and does, where documents are silent or only promise. */
import { closeSync, fstatSync, readFileSync, readlinkSync } from "node:fs";
import { DEVICE_ATTRIBUTE, POINTER_ATTRIBUTE } from "../../dist/cuda/driver.js";
import { statusName } from "../../dist/cuda/status.js";
import { answerOf, GIB, MIB, openGpu, randomSource } from "./driver.mjs";
import { blocksOf, hostDigests, openHasher, scan } from "./hashing.mjs";
import { runPart } from "./parts.mjs";

const PATTERN = 0xc3;
const O_CLOEXEC = 0o2000000;
/** The last device attribute of cuda.h 13.0, and the last pointer attribute. */
const LAST_DEVICE_ATTRIBUTE = 147;
const LAST_POINTER_ATTRIBUTE = 21;
/** Pointer attributes that are addresses or ids: what they are is nobody's business, only whether there is an answer. */
const UNSPOKEN = new Set([1, 3, 4, 5, 7, 11, 19, 20]);

function attributes({ report }) {
  const gpu = openGpu();
  const names = new Map(Object.entries(DEVICE_ATTRIBUTE).map(([name, number]) => [number, name]));
  const values = {};
  for (let number = 1; number <= LAST_DEVICE_ATTRIBUTE; number += 1) {
    gpu.bare.bytes.fill(0);
    const status = gpu.bare.status("deviceGetAttribute", gpu.bare.bytes, number, gpu.cuDevice);
    const name = names.has(number) ? ` ${names.get(number)}` : "";
    const value = status === 0 ? gpu.bare.view.getInt32(0, true) : statusName(status);
    if (value !== 0 || name !== "") values[`${number}${name}`] = value;
  }
  report("device, zeros left out", values);
}

/** All pointer attributes of one address. */
function attributesAt(gpu, address) {
  const names = new Map(Object.entries(POINTER_ATTRIBUTE).map(([name, number]) => [number, name]));
  const values = {};
  for (let number = 1; number <= LAST_POINTER_ATTRIBUTE; number += 1) {
    gpu.bare.bytes.fill(0);
    const status = gpu.bare.status("pointerGetAttribute", gpu.bare.bytes, number, address);
    const value = gpu.bare.view.getBigUint64(0, true);
    const said = UNSPOKEN.has(number) ? (value === address ? "the address" : "answered") : Number(value);
    values[`${number} ${names.get(number) ?? ""}`.trim()] = status === 0 ? said : statusName(status);
  }
  return values;
}

function pointerAttributes({ report }) {
  const gpu = openGpu();
  const memory = gpu.allocate(gpu.granuleBytes, "read");
  const pinned = gpu.driver.memory.allocatePinned(MIB);
  report("readOnlyMapping", attributesAt(gpu, memory.address));
  report("writableAlias", attributesAt(gpu, memory.alias("readWrite").address));
  report("mappingWithoutAccess", attributesAt(gpu, memory.alias("none").address));
  report("registeredHostMemory", attributesAt(gpu, pinned.cuPointer));
  const nothing = gpu.driver.memory.reserveAddress(gpu.granuleBytes);
  report("reservedAddress", attributesAt(gpu, nothing));
  report("properties", gpu.driver.memory.properties(memory.cuHandle));
  report("access", gpu.driver.memory.getAccess(memory.address, gpu.cuDevice));
}

function withoutContext({ report }) {
  const gpu = openGpu({ context: false });
  const { memory, context } = gpu.driver;
  let made;
  report(
    "create, reserve, map, set access",
    answerOf(() => (made = gpu.allocate(gpu.granuleBytes, "read"))),
  );
  report(
    "second mapping",
    answerOf(() => made.alias("readWrite")),
  );
  report(
    "get access",
    answerOf(() => memory.getAccess(made.address, gpu.cuDevice)),
  );
  report(
    "properties",
    answerOf(() => memory.properties(made.cuHandle)),
  );
  report(
    "export",
    answerOf(() => closeSync(memory.exportFd(made.cuHandle))),
  );
  report(
    "retain handle",
    answerOf(() => memory.release(memory.retainHandle(made.address))),
  );
  report(
    "memoryInfo",
    answerOf(() => context.memoryInfo()),
  );
  report("pointer attribute", statusName(gpu.bare.status("pointerGetAttribute", gpu.bare.bytes, 2, made.address)));
  report(
    "unmap, free, release",
    answerOf(() => made.close()),
  );
}

function refusals({ report }) {
  const gpu = openGpu();
  const { memory, device } = gpu.driver;
  const total = Math.ceil(device.totalMemory(gpu.cuDevice) / gpu.granuleBytes) * gpu.granuleBytes;
  report(
    "create more than there is",
    answerOf(() => memory.create(total + gpu.granuleBytes, gpu.cuDevice)),
  );
  report(
    "create half a granule",
    answerOf(() => memory.create(gpu.granuleBytes / 2, gpu.cuDevice)),
  );
  report(
    "reserve 1 PiB",
    answerOf(() => memory.reserveAddress(2 ** 50)),
  );
  const made = gpu.allocate(2 * gpu.granuleBytes);
  const half = made.address + BigInt(gpu.granuleBytes);
  report(
    "unmap half a mapping",
    answerOf(() => memory.unmap(half, gpu.granuleBytes)),
  );
  report(
    "access of half a mapping",
    answerOf(() => memory.setAccess(half, gpu.granuleBytes, gpu.cuDevice, "read")),
  );
  report(
    "map onto a mapping",
    answerOf(() => memory.map(made.address, made.byteLength, made.cuHandle)),
  );
  report(
    "free a mapped address",
    answerOf(() => memory.freeAddress(made.address, made.byteLength)),
  );
  report(
    "memoryInfo afterwards",
    answerOf(() => gpu.driver.context.memoryInfo()),
  );
  // Last: nothing says what a driver does with a handle that is gone.
  report(
    "release twice",
    answerOf(() => {
      const spare = memory.create(gpu.granuleBytes, gpu.cuDevice);
      memory.release(spare);
      memory.release(spare);
    }),
  );
}

/** What is written through one mapping, as another sees it: by copies and by both kinds of kernel loads. */
function aliasCoherence({ quick, report }) {
  const gpu = openGpu();
  const random = randomSource("alias");
  const memory = gpu.allocate(gpu.granuleBytes, "read");
  const target = gpu.allocate(gpu.granuleBytes);
  const probes = gpu.load("probes");
  const [store, loadWord] = ["vram_probe_store", "vram_probe_load"].map(probes.entry);
  const hasher = openHasher(gpu);
  const byteLength = 64 * 1024;
  const counts = { rounds: 0, copySeen: 0, storeSeen: 0, hashSeen: 0 };
  const word = (value) => ({ kind: "u32", value });
  const at = (value) => ({ kind: "u64", value });
  for (let left = quick ? 5 : 100; left > 0; left -= 1) {
    const alias = memory.alias("readWrite");
    const bytes = random.bytes(byteLength);
    const value = random.below(2 ** 32);
    gpu.upload(alias.address, bytes);
    if (gpu.download(memory.address, byteLength).equals(bytes)) counts.copySeen += 1;
    gpu.launch(store, 1, 32, [at(alias.address), word(value)]);
    gpu.launch(loadWord, 1, 32, [at(memory.address), at(target.address)]);
    gpu.settle();
    if (gpu.download(target.address, 4).readUInt32LE() === value) counts.storeSeen += 1;
    bytes.writeUInt32LE(value, 0);
    hasher.prepare([{ source: memory.address, byteLength, target: target.address }])();
    gpu.settle();
    if (gpu.download(target.address, blocksOf(byteLength) * 32).equals(hostDigests(bytes))) counts.hashSeen += 1;
    alias.unmap();
    counts.rounds += 1;
  }
  report("counts", counts);
  const { rounds, copySeen, storeSeen, hashSeen } = counts;
  if (Math.min(copySeen, storeSeen, hashSeen) < rounds) throw new Error("a write through the alias was not seen");
}

function descriptor({ report }) {
  const gpu = openGpu();
  const memory = gpu.allocate(gpu.granuleBytes);
  // Not by the product's own call, which sets FD_CLOEXEC.
  const fd = Number(BigInt.asUintN(32, gpu.bare.ask("memExport", memory.cuHandle, 1, 0n)));
  const info = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
  const flags = Number.parseInt(/flags:\s*([0-7]+)/.exec(info)?.[1] ?? "0", 8);
  report("link", readlinkSync(`/proc/self/fd/${fd}`).replace(/\d{6,}/g, "N"));
  report("closeOnExecAtBirth", (flags & O_CLOEXEC) !== 0);
  report("flags", flags.toString(8));
  const { mode, size } = fstatSync(fd);
  report("stat", { type: (mode & 0o170000).toString(8), size });
  const again = Number(BigInt.asUintN(32, gpu.bare.ask("memExport", memory.cuHandle, 1, 0n)));
  report("secondExportIsAnotherFd", again !== fd);
}

function importHere({ report }) {
  const gpu = openGpu();
  const memory = gpu.allocate(2 * gpu.granuleBytes, "read");
  const fd = gpu.driver.memory.exportFd(memory.cuHandle);
  const second = gpu.importFd(fd, memory.byteLength, "readWrite");
  report(
    "fdOpenAfterImport",
    answerOf(() => fstatSync(fd)),
  );
  report("handleIsAnother", second.cuHandle !== memory.cuHandle);
  gpu.fill(second.address, PATTERN, memory.byteLength);
  report("seenThroughTheReadOnlyMapping", scan(gpu, memory, PATTERN));
  report("accessOfTheImporter", gpu.driver.memory.getAccess(second.address, gpu.cuDevice));
  report("accessOfTheExporter", gpu.driver.memory.getAccess(memory.address, gpu.cuDevice));
  const half = memory.byteLength / 2;
  report(
    "importAndMapHalf",
    answerOf(() => gpu.importFd(fd, half, "read")),
  );
  report("usedBytesOfFive", fiveImports(gpu, fd, memory.byteLength));
  second.close();
  closeSync(fd);
}

/** Do imports of the same memory count as used again? */
function fiveImports(gpu, fd, byteLength) {
  const before = gpu.driver.context.memoryInfo().bytesFree;
  const imports = Array.from({ length: 5 }, () => gpu.importFd(fd, byteLength, "read"));
  const after = gpu.driver.context.memoryInfo().bytesFree;
  for (const one of imports) one.close();
  return before - after;
}

function importElsewhere({ report }) {
  const gpu = openGpu();
  const memory = gpu.allocate(gpu.granuleBytes, "read");
  const alias = memory.alias("readWrite");
  gpu.fill(alias.address, PATTERN, memory.byteLength);
  alias.unmap();
  const fd = gpu.driver.memory.exportFd(memory.cuHandle);
  const options = { byteLength: memory.byteLength, pattern: PATTERN };
  report("reader", runPart("importer", { ...options, access: "read" }, fd));
  report("writer", runPart("importer", { ...options, access: "readWrite", write: true }, fd));
  const found = [0n, 4096n, 8192n].map((at) => gpu.download(memory.address + at, 4).toString("hex"));
  const expected = ["11111111", "22222222", "33333333"];
  report(
    "exporterSeesItsWrites",
    Object.fromEntries(["kernel", "copy", "fill"].map((by, i) => [by, found[i] === expected[i]])),
  );
  report("exporterAccessIsStill", gpu.driver.memory.getAccess(memory.address, gpu.cuDevice));
}

/** As much as is free, less a little for others. */
function allButABit(gpu, quick) {
  const { bytesFree } = gpu.driver.context.memoryInfo();
  const most = quick ? 16 * MIB : bytesFree - 2 * GIB;
  return Math.max(gpu.granuleBytes, Math.floor(most / gpu.granuleBytes) * gpu.granuleBytes);
}

function freshMemory({ quick, report }) {
  const gpu = openGpu();
  const memory = gpu.allocate(allButABit(gpu, quick), "read");
  const { blocks, zero } = scan(gpu, memory, PATTERN);
  report("fresh", { byteLength: memory.byteLength, blocks, zeroBlocks: zero, otherBlocks: blocks - zero });
}

/** Dirt of another process, and of this one, in memory that is new afterwards. */
function zeroAfterFree({ quick, report }) {
  const gpu = openGpu();
  const most = allButABit(gpu, quick);
  const dirty = quick ? most : Math.floor(most / 2 / GIB) * GIB;
  for (const free of [true, false]) {
    const made = runPart("dirtier", { byteLength: dirty, pattern: PATTERN, free });
    const memory = gpu.allocate(allButABit(gpu, quick), "read");
    const name = free ? "freedByAnotherProcess" : "leftByAnotherProcess";
    report(name, { dirtied: made.byteLength, looked: memory.byteLength, ...scan(gpu, memory, PATTERN) });
    memory.close();
  }
  const own = gpu.allocate(dirty);
  gpu.fill(own.address, PATTERN, own.byteLength);
  own.close();
  const memory = gpu.allocate(allButABit(gpu, quick), "read");
  report("freedByThisProcess", { dirtied: own.byteLength, looked: memory.byteLength, ...scan(gpu, memory, PATTERN) });
}

export const title = "what memory is: attributes, mappings, descriptors, imports, what it holds at birth";
export const questions = {
  attributes: { limitS: 20, ask: attributes },
  "pointer-attributes": { limitS: 20, ask: pointerAttributes },
  "without-context": { limitS: 20, ask: withoutContext },
  refusals: { limitS: 20, ask: refusals },
  "alias-coherence": { limitS: 20, ask: aliasCoherence },
  descriptor: { limitS: 20, ask: descriptor },
  "import-here": { limitS: 20, ask: importHere },
  "import-elsewhere": { limitS: 30, ask: importElsewhere },
  "fresh-memory": { limitS: 30, ask: freshMemory },
  "zero-after-free": { limitS: 60, ask: zeroAfterFree },
};
