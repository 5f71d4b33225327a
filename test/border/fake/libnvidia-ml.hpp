// What the fake libnvidia-ml is made of: the structures of nvml.h, with their sizes and offsets checked, and its machine,
// configured by the environment (the variables are listed in libnvidia-ml.cpp).
#pragma once
#include <unistd.h>

#include <csignal>
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
  UNKNOWN = 999,
};

constexpr uint64_t EVENT_XID = 8;  // nvmlEventTypeXidCriticalError
constexpr size_t MAX_SETS = 8;     // so that sets that are not freed are noticed

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

struct ConfComputeState {  // nvmlConfComputeSystemState_t
  uint32_t environment, ccFeature, devToolsMode;
};
static_assert(sizeof(ConfComputeState) == 12 && offsetof(ConfComputeState, ccFeature) == 4);

struct ConfComputeCertificate {  // nvmlConfComputeGpuCertificate_t
  uint32_t chainSize, attestationChainSize;
  unsigned char chain[4096], attestationChain[5120];
};
static_assert(sizeof(ConfComputeCertificate) == 9224 && offsetof(ConfComputeCertificate, chain) == 8);
static_assert(offsetof(ConfComputeCertificate, attestationChain) == 4104);

struct ConfComputeReport {  // nvmlConfComputeGpuAttestationReport_t
  uint32_t isCecPresent, size, cecSize;
  unsigned char nonce[32], report[8192], cec[4096];
};
static_assert(sizeof(ConfComputeReport) == 12332 && offsetof(ConfComputeReport, size) == 4);
static_assert(offsetof(ConfComputeReport, nonce) == 12 && offsetof(ConfComputeReport, report) == 44);
static_assert(offsetof(ConfComputeReport, cec) == 8236);

struct Process {
  uint32_t pid;
  std::string name;
  uint64_t used;
};

struct Event {
  uint64_t type, data;
};

struct EventSet {
  std::deque<Event> events;
  uint64_t device = 0;
};

struct Machine {
  std::vector<std::string> uuids;  // a handle is the address of its element of `devices`
  std::map<std::string, std::unique_ptr<char>> devices;
  std::vector<Process> compute, graphics;
  std::vector<uint64_t> memory, ecc, rows, cc, ccSizes;
  std::vector<Event> events;
  uint64_t recovery = 0, recoveryType = 1, stride = 24;
  std::string driver, count;
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
  machine->cc = numbers(text("CC"));
  machine->ccSizes = numbers(text("CC_SIZES", "1000,500,700,900"));
  if ((!machine->cc.empty() && machine->cc.size() != 4) || machine->ccSizes.size() != 4) abort();
  for (const auto& event : split(text("XIDS"), ',')) {
    const auto fields = split(event, ':');
    const uint64_t type = fields.size() == 2 ? strtoull(fields[0].c_str(), nullptr, 10) : EVENT_XID;
    machine->events.push_back({type, strtoull(fields.back().c_str(), nullptr, 10)});
  }
  const auto recovery = split(text("RECOVERY", "0"), ':');
  machine->recovery = strtoull(recovery[0].c_str(), nullptr, 10);
  if (recovery.size() == 2) machine->recoveryType = strtoull(recovery[1].c_str(), nullptr, 10);
  machine->stride = strtoull(text("STRIDE", "24").c_str(), nullptr, 10);
  machine->count = text("COUNT");
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
    // As a driver call in the kernel would be: out of reach of everything but SIGKILL.
    signal(SIGTERM, SIG_IGN);
    if (!machine->hung.empty()) writePid(machine->hung);
    for (;;) pause();
  }
  for (const auto& name : machine->unsupported) {
    if (name == function) return NOT_SUPPORTED;
  }
  const auto fault = machine->faults.find({function, call});
  return fault == machine->faults.end() ? SUCCESS : fault->second;
}

}  // namespace
