#include "mezzo/train/machine.h"

#include <ctime>
#include <fstream>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>

namespace mezzo::train {
namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

double memory_bytes() {
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<double>(::sysconf(_SC_PAGE_SIZE));
}

Facts machine_facts(const RunConfig& config) {
  const int64_t threads = config.threads > 0 ? config.threads : at::get_num_threads();
  return {{"cpu", cpu_name()},
          {"isa", at::get_cpu_capability()},
          {"threads", fmt::format("{}", threads)},
          {"device", config.device},
          {"memory", fmt::format("{:.1f} GiB", memory_bytes() / 0x1p30)}};
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

Facts version_facts() { return {{"mezzo", MEZZO_VERSION}, {"libtorch", TORCH_VERSION}}; }

}  // namespace mezzo::train
