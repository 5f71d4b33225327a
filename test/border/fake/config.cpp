/**
 * What the environment says. Nonsense is refused loudly: a test whose fault never fires because of a typing error would
 * pass for the wrong reason.
 */
#include <dlfcn.h>
#include <fcntl.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "fake.hpp"

namespace fake {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

uint64_t number(const std::string& text, uint64_t max) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos || text.size() > 19) {
    throw std::invalid_argument("'" + text + "' is not a number");
  }
  const uint64_t value = std::stoull(text);
  if (value > max) throw std::invalid_argument(text + " is more than " + std::to_string(max));
  return value;
}

uint64_t numberOf(const char* name, uint64_t fallback, uint64_t max) {
  const std::string text = variable(name);
  return text.empty() ? fallback : number(text, max);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

/** `18=1,102=0`. */
template <typename T>
std::map<int, T> pairs(const char* name) {
  std::map<int, T> found;
  for (const std::string& part : split(variable(name), ',')) {
    const std::vector<std::string> sides = split(part, '=');
    if (sides.size() != 2) throw std::invalid_argument("'" + part + "' is not number=number");
    found[static_cast<int>(number(sides[0], 100000))] = static_cast<T>(number(sides[1], INT64_MAX));
  }
  return found;
}

/** Whether this library exports it: faults name real symbols only. */
bool isExported(const std::string& symbol) {
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&cuInit), &self) == 0) return false;
  void* library = dlopen(self.dli_fname, RTLD_NOLOAD | RTLD_LAZY);
  const bool found = library != nullptr && symbol.rfind("cu", 0) == 0 && dlsym(library, symbol.c_str()) != nullptr;
  if (library != nullptr) dlclose(library);
  return found;
}

/** `cuMemCreate:2:2,cuEventQuery:5+:700`. */
std::vector<Fault> readFaults() {
  std::vector<Fault> faults;
  for (const std::string& part : split(variable("VRAM_FAKE_FAULTS"), ',')) {
    const std::vector<std::string> fields = split(part, ':');
    if (fields.size() != 3) throw std::invalid_argument("'" + part + "' is not symbol:n:status");
    if (!isExported(fields[0])) throw std::invalid_argument("'" + fields[0] + "' is not a symbol of this library");
    const bool onwards = !fields[1].empty() && fields[1].back() == '+';
    const std::string nth = onwards ? fields[1].substr(0, fields[1].size() - 1) : fields[1];
    const auto status = static_cast<CUresult>(number(fields[2], CUDA_ERROR_UNKNOWN));
    faults.push_back({fields[0], number(nth, INT32_MAX), onwards, status});
    if (faults.back().nth == 0) throw std::invalid_argument("'" + part + "': calls are counted from 1");
  }
  return faults;
}

/** -1 when there is no log. Lines go out whole: one write each, at the end of the file. */
int openLog() {
  const std::string path = variable("VRAM_FAKE_LOG");
  if (path.empty()) return -1;
  const int log = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) throw std::invalid_argument("VRAM_FAKE_LOG cannot be opened");
  return log;
}

}  // namespace

std::optional<Config> readConfig() {
  try {
    Config config;
    config.devices = static_cast<int>(numberOf("VRAM_FAKE_DEVICES", 1, MAX_DEVICES));
    config.driverVersion = static_cast<int>(numberOf("VRAM_FAKE_DRIVER_VERSION", 13000, 99999));
    config.bytes = numberOf("VRAM_FAKE_BYTES", size_t{1} << 30, size_t{1} << 46);
    config.attributes = pairs<int>("VRAM_FAKE_ATTRIBUTES");
    config.pointerAttributes = pairs<uint64_t>("VRAM_FAKE_POINTER_ATTRIBUTES");
    config.faults = readFaults();
    config.notReady = static_cast<unsigned>(numberOf("VRAM_FAKE_NOT_READY", 0, 1000000));
    config.dropLaunches = numberOf("VRAM_FAKE_DROP_LAUNCHES", 0, 1) == 1;
    config.log = openLog();
    return config;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fake libcuda: the environment makes no sense: %s\n", error.what());
    return std::nullopt;
  }
}

}  // namespace fake
