// A stand-in for libnvidia-ml.so.1: the functions that src/cuda/nvml-calls.ts binds, answering what the environment
// says. It is read by nvmlInitWithFlags; a second initialisation starts anew. No nvml.h is needed to build it: the
// structures are declared here, and their sizes and offsets are checked against those of CUDA 13.3's nvml.h.
//
//   VRAM_FAKE_NVML_UUIDS=a,b            the devices; default: whatever is asked for
//   VRAM_FAKE_NVML_PROCESSES=p:name:b   compute processes: pid ("self" is this one), path, bytes ("-" is unknown)
//   VRAM_FAKE_NVML_GRAPHICS=p:name:b    graphics processes
//   VRAM_FAKE_NVML_STRIDE=32            entries as in R535 before 535.98; default 24
//   VRAM_FAKE_NVML_COUNT=n              how many processes it claims to have listed; default: as many as it did
//   VRAM_FAKE_NVML_MEMORY=t,r,f,u       bytes in total, reserved, free, used
//   VRAM_FAKE_NVML_ECC=c,u,c,u          corrected and uncorrected: volatile, then aggregate
//   VRAM_FAKE_NVML_ROWS=c,u,p,f         remapped rows: corrected, uncorrected, pending, failed
//   VRAM_FAKE_NVML_RECOVERY=n or n:t    field 230, and the type of its value; default 1, an unsigned int
//   VRAM_FAKE_NVML_XIDS=79,45,1:7       events that wait when a device is first registered; "1:7" is of another type, 1
//   VRAM_FAKE_NVML_DRIVER=text          version of the driver
//   VRAM_FAKE_NVML_CC=e,f,d,c           confidential computing: environment, feature, tools mode, whether there is a CEC;
//                                       certificates and reports are given even if the feature is off. Default: none
//   VRAM_FAKE_NVML_CC_SIZES=r,c,g,a     bytes it claims of report, CEC report, certificate chain, attestation chain
//   VRAM_FAKE_NVML_UNSUPPORTED=f,g      functions that answer 3
//   VRAM_FAKE_NVML_FAULTS=f:n:status    what the n-th call (from 1) of a function answers; any number, with commas
//   VRAM_FAKE_NVML_HANG=f or f:n        the function that never returns, at all or at its n-th call
//   VRAM_FAKE_NVML_HUNG=path            a file that gets the process id just before that
//
// With FAKE_NVML_BARE it has nothing but nvmlInitWithFlags and nvmlDeviceGetHandleByUUID.
#include "libnvidia-ml.hpp"

#define API extern "C" __attribute__((visibility("default"))) int

#define BEFORE \
  if (const int status = before(__func__); status != SUCCESS) return status

namespace {

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
  if (!machine->count.empty()) *count = strtoul(machine->count.c_str(), nullptr, 10);
  return SUCCESS;
}

/** So many bytes at most: `head`, `nonce` if there is one, 0, 1, 2, …; behind them what must not be read. */
[[maybe_unused]] void fill(unsigned char* field, size_t room, size_t claimed, const std::string& head,
                           const unsigned char* nonce) {
  const size_t size = claimed < room ? claimed : room;
  std::string part = head;
  if (nonce != nullptr) part.append(reinterpret_cast<const char*>(nonce), 32);
  for (size_t i = 0; part.size() < size; ++i) part.push_back(static_cast<char>(i));
  memset(field, 0xee, room);
  memcpy(field, part.data(), size);
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
    values[i].type = machine->recoveryType;
    values[i].value.u64 = 0;
    if (values[i].status == SUCCESS) values[i].value.u32 = machine->recovery;
  }
  return SUCCESS;
}

API nvmlEventSetCreate(uint64_t* set) {
  BEFORE;
  if (machine->sets.size() == MAX_SETS) return UNKNOWN;
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
  if (types != EVENT_XID) return NOT_SUPPORTED;
  set->device = device;
  if (!machine->registered) set->events.assign(machine->events.begin(), machine->events.end());
  machine->registered = true;
  return SUCCESS;
}

API nvmlEventSetWait_v2(uint64_t handle, EventData* event, uint32_t milliseconds) {
  BEFORE;
  EventSet* set = setOf(handle);
  if (set == nullptr) return INVALID_ARGUMENT;
  if (set->events.empty()) {
    usleep(milliseconds * 1000);
    return TIMEOUT;
  }
  *event = {set->device, set->events.front().type, set->events.front().data, UINT32_MAX, UINT32_MAX};
  set->events.pop_front();
  return SUCCESS;
}

API nvmlSystemGetConfComputeState(ConfComputeState* state) {
  BEFORE;
  if (machine->cc.empty()) return NOT_SUPPORTED;
  const auto& cc = machine->cc;
  *state = {static_cast<uint32_t>(cc[0]), static_cast<uint32_t>(cc[1]), static_cast<uint32_t>(cc[2])};
  return SUCCESS;
}

API nvmlDeviceGetConfComputeGpuCertificate(uint64_t device, ConfComputeCertificate* answer) {
  BEFORE;
  DEVICE(device);
  if (machine->cc.empty()) return NOT_SUPPORTED;
  answer->chainSize = machine->ccSizes[2];
  answer->attestationChainSize = machine->ccSizes[3];
  fill(answer->chain, sizeof answer->chain, answer->chainSize, "FAKE-CHAIN", nullptr);
  fill(answer->attestationChain, sizeof answer->attestationChain, answer->attestationChainSize, "FAKE-ATTESTATION",
       nullptr);
  return SUCCESS;
}

API nvmlDeviceGetConfComputeGpuAttestationReport(uint64_t device, ConfComputeReport* answer) {
  BEFORE;
  DEVICE(device);
  if (machine->cc.empty()) return NOT_SUPPORTED;
  answer->isCecPresent = machine->cc[3];
  answer->size = machine->ccSizes[0];
  answer->cecSize = machine->ccSizes[1];
  fill(answer->report, sizeof answer->report, answer->size, "FAKE-SPDM", answer->nonce);
  fill(answer->cec, sizeof answer->cec, answer->cecSize, "FAKE-CEC", answer->nonce);
  return SUCCESS;
}

#endif
