#include "format/position.h"

#include <cerrno>
#include <sys/random.h>

#include "base/error.h"
#include "format/hex.h"

namespace sqlstream {

std::string Generation::str() const {
  return to_hex(id, 16);
}

std::optional<Generation> Generation::parse(std::string_view text) {
  const auto id = from_hex(text, 16);
  if (!id) return std::nullopt;
  return Generation{*id};
}

Generation Generation::random() {
  Generation generation;
  ssize_t n = 0;
  do {
    n = ::getrandom(&generation.id, sizeof generation.id, 0);
  } while (n < 0 && errno == EINTR);
  if (n != static_cast<ssize_t>(sizeof generation.id)) {
    throw Error(
        "cannot name a new generation: the kernel gives no random bytes (getrandom failed)");
  }
  return generation;
}

}  // namespace sqlstream
