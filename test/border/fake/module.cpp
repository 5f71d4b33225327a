/**
 * Modules: PTX text goes in, its entries can be asked for. Nothing is compiled: of an image only what a driver would
 * refuse first is looked at, its directives and the names of its entries.
 */
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "fake.hpp"

using namespace fake;

namespace {

constexpr size_t IMAGE_BYTES_MAX = size_t{64} << 20;

/** The text up to its NUL; nothing if it is not text, or never ends. */
std::optional<std::string> readText(const char* image) {
  for (size_t length = 0; length < IMAGE_BYTES_MAX; length++) {
    const char* const at = image + length;
    if ((length == 0 || reinterpret_cast<uintptr_t>(at) % 4096 == 0) && !isHostMemory(at, 1)) return std::nullopt;
    if (*at == '\0') return std::string(image, length);
    if (!std::isprint(static_cast<unsigned char>(*at)) && !std::isspace(static_cast<unsigned char>(*at))) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

/** The word after `directive`, from `at` on; `at` moves behind it. */
std::optional<std::string> wordAfter(const std::string& text, const std::string& directive, size_t& at) {
  const size_t found = text.find(directive, at);
  if (found == std::string::npos) return std::nullopt;
  const size_t start = text.find_first_not_of(" \t\r\n", found + directive.size());
  if (start == std::string::npos) return std::nullopt;
  at = text.find_first_of(" \t\r\n(,;", start);
  at = std::min(at, text.size());
  return text.substr(start, at - start);
}

std::vector<std::string> entriesOf(const std::string& text) {
  std::vector<std::string> entries;
  size_t at = 0;
  while (const auto word = wordAfter(text, ".visible", at)) {
    size_t from = at;
    if (*word != ".entry") continue;
    if (const auto name = wordAfter(text, ".entry", from -= word->size())) entries.push_back(*name);
  }
  return entries;
}

/** Since CUDA 10 the major version of PTX is four less than CUDA's. */
int newestPtxMajor() { return state().config.driverVersion / 1000 - 4; }

/** Why the image is refused. */
CUresult refusalOfImage(const std::optional<std::string>& text) {
  if (!text) return CUDA_ERROR_INVALID_PTX;
  size_t start = 0;
  const auto version = wordAfter(*text, ".version", start);
  const auto target = wordAfter(*text, ".target", start);
  if (!version || !target || entriesOf(*text).empty()) return CUDA_ERROR_INVALID_PTX;
  return std::atoi(version->c_str()) > newestPtxMajor() ? CUDA_ERROR_UNSUPPORTED_PTX_VERSION : CUDA_SUCCESS;
}

/** Writes `message` into the log buffer that was handed over, and how much it was into the slot of its size. */
void writeJitLog(CUjit_option buffer, CUjit_option size, const std::string& message, unsigned count,
                 const CUjit_option* options, void** values) {
  char* text = nullptr;
  void** bytes = nullptr;
  for (unsigned i = 0; i < count; i++) {
    if (options[i] == buffer) text = static_cast<char*>(values[i]);
    if (options[i] == size) bytes = &values[i];
  }
  if (text == nullptr || bytes == nullptr) return;
  const auto room = static_cast<unsigned>(reinterpret_cast<uintptr_t>(*bytes));
  if (room == 0) return;
  const size_t written = std::min<size_t>(room - 1, message.size());
  std::memcpy(text, message.data(), written);
  text[written] = '\0';
  *bytes = reinterpret_cast<void*>(written);
}

}  // namespace

FAKE cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int count, CUjit_option* options,
                        void** values) {
  FAKE_CALL(context);
  if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (count > 0 && (options == nullptr || values == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  const std::optional<std::string> text = readText(static_cast<const char*>(image));
  const CUresult refused = refusalOfImage(text);
  writeJitLog(CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, "fake: nothing was compiled", count, options,
              values);
  writeJitLog(CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
              refused == CUDA_SUCCESS ? "" : "fake: the image was refused", count, options, values);
  if (refused != CUDA_SUCCESS) return refused;
  *module = newHandle<CUmodule>();
  state().modules[*module] = {currentDevice()->ordinal, entriesOf(*text)};
  return CUDA_SUCCESS;
}

FAKE cuModuleUnload(CUmodule module) {
  FAKE_CALL(context);
  if (state().modules.erase(module) == 0) return CUDA_ERROR_INVALID_VALUE;
  auto& functions = state().functions;
  for (auto at = functions.begin(); at != functions.end();) {
    at = at->second.module == module ? functions.erase(at) : std::next(at);
  }
  return CUDA_SUCCESS;
}

FAKE cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  FAKE_CALL(context);
  const auto found = state().modules.find(module);
  if (function == nullptr || name == nullptr || found == state().modules.end()) return CUDA_ERROR_INVALID_VALUE;
  for (const std::string& entry : found->second.entries) {
    if (entry != name) continue;
    *function = newHandle<CUfunction>();
    state().functions[*function] = {entry, module};
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

/** Figures as the hashing kernel has them on sm_90; nothing spills. */
FAKE cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  FAKE_CALL(context);
  if (value == nullptr || attribute < 0 || attribute >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (state().functions.count(function) == 0) return CUDA_ERROR_INVALID_HANDLE;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 64; break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION: *value = 75; break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = 90; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}
