// Configuration files, and what `sqlstream config` makes of them.

#include "config/config.h"

#include <cstdio>
#include <sys/mman.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "config/explain.h"
#include "test/fuzz/input.h"

using namespace sqlstream;

namespace {

std::optional<std::string> variable(const std::string& name) {
  if (name == "HOME") return "/home/someone";
  if (name == "AWS_REGION") return "eu-west-1";
  if (name == "TEXT") return "a: [b, \"c\"]\n";
  return std::nullopt;
}

}  // namespace

FUZZ(data, size) {
  static const UniqueFd file(::memfd_create("sqlstream.yml", MFD_CLOEXEC));
  fuzz::Input input(data, size);
  config::Reading reading;
  reading.expand_env = (input.byte() & 1) != 0;
  const ByteView text = input.rest();
  if (::ftruncate(file.get(), 0) != 0) std::abort();
  if (::pwrite(file.get(), text.data(), text.size(), 0) < 0) std::abort();
  try {
    const auto config =
        config::read_config("/proc/self/fd/" + std::to_string(file.get()), variable, reading);
    for (const auto& database : config.databases) fuzz::require(!database.path.empty());
    (void)config::explain(config, variable);
  } catch (const Error& error) {
    fuzz::require(error.what()[0] != '\0');
  }
  return 0;
}
