#include "shipper/sqlite_version.h"

namespace sqlstream {

std::string sqlite_version_text(int number) {
  return std::to_string(number / 1'000'000) + '.' + std::to_string(number / 1000 % 1000) + '.' +
         std::to_string(number % 1000);
}

bool has_wal_reset_bug(int number) {
  const auto fixed_in_branch = [number](int branch, int release) {
    return number / 1000 == branch && number % 1000 >= release;
  };
  if (fixed_in_branch(3044, 6) || fixed_in_branch(3050, 7)) return false;
  return number >= 3'007'000 && number < 3'051'003;
}

}  // namespace sqlstream
