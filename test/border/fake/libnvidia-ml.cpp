// A stand-in for libnvidia-ml.so.1: the functions that src/cuda/nvml-calls.ts binds, answering what the environment
// says. It is read by nvmlInitWithFlags; a second initialisation starts anew. No nvml.h is needed to build it: the
// structures are declared here, and their sizes and offsets are checked against those of CUDA 13.3's nvml.h.
//
//   VRAM_FAKE_NVML_UUIDS=a,b            the devices; default: whatever is asked for
//   VRAM_FAKE_NVML_PROCESSES=p:name:b   compute processes: pid ("self" is this one), path, bytes ("-" is unknown)
//   VRAM_FAKE_NVML_GRAPHICS=p:name:b    graphics processes
//   VRAM_FAKE_NVML_STRIDE=32            entries as in R535 before 535.98; default 24
//   VRAM_FAKE_NVML_MEMORY=t,r,f,u       bytes in total, reserved, free, used
//   VRAM_FAKE_NVML_ECC=c,u,c,u          corrected and uncorrected: volatile, then aggregate
//   VRAM_FAKE_NVML_ROWS=c,u,p,f         remapped rows: corrected, uncorrected, pending, failed
//   VRAM_FAKE_NVML_RECOVERY=n           field 230
//   VRAM_FAKE_NVML_XIDS=79,45           events that wait when a device is first registered
//   VRAM_FAKE_NVML_DRIVER=text          version of the driver
//   VRAM_FAKE_NVML_UNSUPPORTED=f,g      functions that answer 3
//   VRAM_FAKE_NVML_FAULTS=f:n:status    what the n-th call (from 1) of a function answers; any number, with commas
//   VRAM_FAKE_NVML_HANG=f or f:n        the function that never returns, at all or at its n-th call
//   VRAM_FAKE_NVML_HUNG=path            a file that gets the process id just before that
//
// With FAKE_NVML_BARE it has nothing but nvmlInitWithFlags and nvmlDeviceGetHandleByUUID.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum Status {
  SUCCESS = 0,
  UNINITIALIZED = 1,
  INVALID_ARGUMENT = 2,
  NOT_SUPPORTED = 3,
  NOT_FOUND = 6,
  INSUFFICIENT_SIZE = 7,
  TIMEOUT = 10,
  ARGUMENT_VERSION_MISMATCH = 25,
};

struct Memory {  // nvmlMemory_v2_t
  uint32_t version;
  uint64_t total, reserved, free, used;
};
static_assert(sizeof(Memory) == 40 && offsetof(Memory, total) == 8 && offsetof(Memory, used) == 32);

struct ProcessInfo {  // nvmlProcessInfo_t
  uint32_t pid;
  uint64_t used;
  uint32_t gpuInstance, computeInstance;
};
static_assert(sizeof(ProcessInfo) == 24 && offsetof(ProcessInfo, used) == 8 && offsetof(ProcessInfo, gpuInstance) == 16);

struct LongProcessInfo {  // the same in R535 before 535.98
  ProcessInfo info;
  uint64_t usedProtected;
};
static_assert(sizeof(LongProcessInfo) == 32 && offsetof(LongProcessInfo, usedProtected) == 24);

struct EventData {  // nvmlEventData_t
  uint64_t device, type, data;
  uint32_t gpuInstance, computeInstance;
};
static_assert(sizeof(EventData) == 32 && offsetof(EventData, type) == 8 && offsetof(EventData, data) == 16);

struct FieldValue {  // nvmlFieldValue_t
  uint32_t field, scope;
  int64_t timestamp, latency;
  int32_t type, status;
  union {
    double d;
    uint32_t u32;
    uint64_t u64;
  } value;
};
static_assert(sizeof(FieldValue) == 40 && offsetof(FieldValue, timestamp) == 8 && offsetof(FieldValue, latency) == 16);
static_assert(offsetof(FieldValue, type) == 24 && offsetof(FieldValue, status) == 28);
static_assert(offsetof(FieldValue, value) == 32);

struct Process {
  uint32_t pid;
  std::string name;
  uint64_t used;
};

struct EventSet {
  std::deque<uint64_t> xids;
  uint64_t device = 0;
};

struct Machine {
  std::vector<std::string> uuids;  // a handle is the address of its element of `devices`
  std::map<std::string, std::unique_ptr<char>> devices;
  std::vector<Process> compute, graphics;
  std::vector<uint64_t> memory, ecc, rows, xids;
  uint64_t recovery = 0, stride = 24;
  std::string driver;
  std::vector<std::string> unsupported;
  std::map<std::pair<std::string, uint64_t>, int> faults;
  std::string hang, hung;
  uint64_t hangAt = 0;
  std::map<std::string, uint64_t> calls;
  std::vector<std::unique_ptr<EventSet>> sets;
  bool registered = false;
};

std::unique_ptr<Machine> machine;

std::string text(const char* name, const char* otherwise = "") {
  const char* value = getenv((std::string("VRAM_FAKE_NVML_") + name).c_str());
  return value != nullptr ? value : otherwise;
}

std::vector<std::string> split(const std::string& list, char at) {
  std::vector<std::string> parts;
  size_t from = 0;
  for (size_t to = list.find(at); to != std::string::npos; from = to + 1, to = list.find(at, from)) {
    parts.push_back(list.substr(from, to - from));
  }
  if (!list.empty()) parts.push_back(list.substr(from));
  return parts;
}

std::vector<uint64_t> numbers(const std::string& list) {
  std::vector<uint64_t> parsed;
  for (const auto& part : split(list, ',')) parsed.push_back(strtoull(part.c_str(), nullptr, 0));
  return parsed;
}

std::vector<Process> processes(const std::string& list) {
  std::vector<Process> parsed;
  for (const auto& part : split(list, ',')) {
    const auto fields = split(part, ':');
    if (fields.size() != 3) abort();
    const uint32_t pid = fields[0] == "self" ? getpid() : strtoul(fields[0].c_str(), nullptr, 10);
    parsed.push_back({pid, fields[1], fields[2] == "-" ? UINT64_MAX : strtoull(fields[2].c_str(), nullptr, 10)});
  }
  return parsed;
}

void configure() {
  machine = std::make_unique<Machine>();
  machine->uuids = split(text("UUIDS"), ',');
  machine->compute = processes(text("PROCESSES"));
  machine->graphics = processes(text("GRAPHICS"));
  machine->memory = numbers(text("MEMORY", "150754820096,633339904,150121480192,0"));
  machine->ecc = numbers(text("ECC", "0,0,0,0"));
  machine->rows = numbers(text("ROWS", "0,0,0,0"));
  if (machine->memory.size() != 4 || machine->ecc.size() != 4 || machine->rows.size() != 4) abort();
  machine->xids = numbers(text("XIDS"));
  machine->recovery = strtoull(text("RECOVERY", "0").c_str(), nullptr, 10);
  machine->stride = strtoull(text("STRIDE", "24").c_str(), nullptr, 10);
  machine->driver = text("DRIVER", "580.95.05");
  machine->unsupported = split(text("UNSUPPORTED"), ',');
  for (const auto& fault : split(text("FAULTS"), ',')) {
    const auto fields = split(fault, ':');
    if (fields.size() != 3) abort();
    machine->faults[{fields[0], strtoull(fields[1].c_str(), nullptr, 10)}] = atoi(fields[2].c_str());
  }
  const auto hang = split(text("HANG"), ':');
  if (!hang.empty()) machine->hang = hang[0];
  if (hang.size() == 2) machine->hangAt = strtoull(hang[1].c_str(), nullptr, 10);
  machine->hung = text("HUNG");
}

/** The file appears when it is complete. */
void writePid(const std::string& path) {
  FILE* file = fopen((path + ".part").c_str(), "w");
  if (file == nullptr) abort();
  fprintf(file, "%d", getpid());
  fclose(file);
  if (rename((path + ".part").c_str(), path.c_str()) != 0) abort();
}

/** What every call does first: hang, or answer something else than it would. */
int before(const std::string& function) {
  if (!machine) return UNINITIALIZED;
  const uint64_t call = ++machine->calls[function];
  if (function == machine->hang && (machine->hangAt == 0 || machine->hangAt == call)) {
    if (!machine->hung.empty()) writePid(machine->hung);
    for (;;) pause();
  }
  for (const auto& name : machine->unsupported) {
    if (name == function) return NOT_SUPPORTED;
  }
  const auto fault = machine->faults.find({function, call});
  return fault == machine->faults.end() ? SUCCESS : fault->second;
}

#define BEFORE \
  if (const int status = before(__func__); status != SUCCESS) return status

[[maybe_unused]] bool isDevice(uint64_t handle) {
  for (const auto& [uuid, device] : machine->devices) {
    if (reinterpret_cast<uint64_t>(device.get()) == handle) return true;
  }
  return false;
}

#define DEVICE(handle) \
  if (!isDevice(handle)) return INVALID_ARGUMENT

[[maybe_unused]] EventSet* setOf(uint64_t handle) {
  for (const auto& set : machine->sets) {
    if (reinterpret_cast<uint64_t>(set.get()) == handle) return set.get();
  }
  return nullptr;
}

[[maybe_unused]] int copyText(const std::string& from, char* to, uint32_t length) {
  if (to == nullptr || length == 0) return INVALID_ARGUMENT;
  if (from.size() + 1 > length) return INSUFFICIENT_SIZE;
  memcpy(to, from.c_str(), from.size() + 1);
  return SUCCESS;
}

[[maybe_unused]] int listProcesses(const std::vector<Process>& list, uint32_t* count, unsigned char* entries) {
  const uint32_t room = *count;
  *count = list.size();
  if (room < list.size()) return INSUFFICIENT_SIZE;
  for (size_t i = 0; i < list.size(); ++i) {
    const LongProcessInfo entry = {{list[i].pid, list[i].used, UINT32_MAX, UINT32_MAX}, 0};
    memcpy(entries + i * machine->stride, &entry, machine->stride);
  }
  return SUCCESS;
}

}  // namespace

API nvmlInitWithFlags(uint32_t flags) {
  configure();
  BEFORE;
  return flags <= 3 ? SUCCESS : INVALID_ARGUMENT;
}

API nvmlDeviceGetHandleByUUID(const char* uuid, uint64_t* device) {
  BEFORE;
  bool known = machine->uuids.empty();
  for (const auto& name : machine->uuids) known = known || name == uuid;
  if (!known) return NOT_FOUND;
  auto& slot = machine->devices[uuid];
  if (!slot) slot = std::make_unique<char>();
  *device = reinterpret_cast<uint64_t>(slot.get());
  return SUCCESS;
}

#ifndef FAKE_NVML_BARE

API nvmlSystemGetDriverVersion(char* version, uint32_t length) {
  BEFORE;
  return copyText(machine->driver, version, length);
}

API nvmlSystemGetProcessName(uint32_t pid, char* name, uint32_t length) {
  BEFORE;
  for (const auto* list : {&machine->compute, &machine->graphics}) {
    for (const auto& process : *list) {
      if (process.pid == pid && !process.name.empty()) return copyText(process.name, name, length);
    }
  }
  return NOT_FOUND;
}

API nvmlDeviceGetMemoryInfo_v2(uint64_t device, Memory* memory) {
  BEFORE;
  DEVICE(device);
  if (memory->version != (sizeof(Memory) | 2 << 24)) return ARGUMENT_VERSION_MISMATCH;
  const auto& m = machine->memory;
  *memory = {memory->version, m[0], m[1], m[2], m[3]};
  return SUCCESS;
}

API nvmlDeviceGetComputeRunningProcesses_v3(uint64_t device, uint32_t* count, unsigned char* entries) {
  BEFORE;
  DEVICE(device);
  return listProcesses(machine->compute, count, entries);
}

API nvmlDeviceGetGraphicsRunningProcesses_v3(uint64_t device, uint32_t* count, unsigned char* entries) {
  BEFORE;
  DEVICE(device);
  return listProcesses(machine->graphics, count, entries);
}

API nvmlDeviceGetTotalEccErrors(uint64_t device, int type, int counter, uint64_t* count) {
  BEFORE;
  DEVICE(device);
  if (type < 0 || type > 1 || counter < 0 || counter > 1) return INVALID_ARGUMENT;
  *count = machine->ecc[2 * counter + type];
  return SUCCESS;
}

API nvmlDeviceGetRemappedRows(uint64_t device, uint32_t* corrected, uint32_t* uncorrected, uint32_t* pending,
                              uint32_t* failed) {
  BEFORE;
  DEVICE(device);
  *corrected = machine->rows[0];
  *uncorrected = machine->rows[1];
  *pending = machine->rows[2];
  *failed = machine->rows[3];
  return SUCCESS;
}

API nvmlDeviceGetFieldValues(uint64_t device, int count, FieldValue* values) {
  BEFORE;
  DEVICE(device);
  if (count < 1 || values == nullptr) return INVALID_ARGUMENT;
  for (int i = 0; i < count; ++i) {
    // Each field has a status of its own; "field230" in the lists above makes only that one fail.
    values[i].status = values[i].field == 230 ? before("field230") : int{NOT_SUPPORTED};
    values[i].type = 1;  // NVML_VALUE_TYPE_UNSIGNED_INT
    values[i].value.u64 = 0;
    if (values[i].status == SUCCESS) values[i].value.u32 = machine->recovery;
  }
  return SUCCESS;
}

API nvmlEventSetCreate(uint64_t* set) {
  BEFORE;
  machine->sets.push_back(std::make_unique<EventSet>());
  *set = reinterpret_cast<uint64_t>(machine->sets.back().get());
  return SUCCESS;
}

API nvmlEventSetFree(uint64_t set) {
  BEFORE;
  for (auto at = machine->sets.begin(); at != machine->sets.end(); ++at) {
    if (at->get() != setOf(set)) continue;
    machine->sets.erase(at);
    return SUCCESS;
  }
  return INVALID_ARGUMENT;
}

API nvmlDeviceRegisterEvents(uint64_t device, uint64_t types, uint64_t handle) {
  BEFORE;
  DEVICE(device);
  EventSet* set = setOf(handle);
  if (set == nullptr) return INVALID_ARGUMENT;
  if (types != 8) return NOT_SUPPORTED;
  set->device = device;
  if (!machine->registered) set->xids.assign(machine->xids.begin(), machine->xids.end());
  machine->registered = true;
  return SUCCESS;
}

API nvmlEventSetWait_v2(uint64_t handle, EventData* event, uint32_t milliseconds) {
  BEFORE;
  EventSet* set = setOf(handle);
  if (set == nullptr) return INVALID_ARGUMENT;
  if (set->xids.empty()) {
    usleep(milliseconds * 1000);
    return TIMEOUT;
  }
  *event = {set->device, 8, set->xids.front(), UINT32_MAX, UINT32_MAX};
  set->xids.pop_front();
  return SUCCESS;
}

#endif
